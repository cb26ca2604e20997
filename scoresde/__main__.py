"""`python -m scoresde`, the same as the command `scoresde`."""

from scoresde.cli import main

if __name__ == "__main__":
    main()
