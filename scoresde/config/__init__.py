"""Hydra configurations: the allow-list, modules of the user's own, trust, and the words of the command line."""
