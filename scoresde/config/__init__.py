"""Hydra configurations: the allow-list, modules of the user's own, trust, and the words of the command line."""

from scoresde.extras import need as _need

_need("scoresde.config", "hydra", "omegaconf", extra="cli")
