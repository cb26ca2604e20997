"""`python -m scoresde.cli`, as launchers of several processes want it."""

from scoresde.cli import main

if __name__ == "__main__":
    main()
