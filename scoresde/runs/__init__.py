"""Run directories, and what the commands do with them."""

from scoresde.extras import need as _need

_need("scoresde.runs", "accelerate", "filelock", "hydra", "omegaconf", extra="cli")
