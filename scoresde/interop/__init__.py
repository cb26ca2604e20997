"""Models of other projects: checkpoints that are read without running anything in them, and functions of one's own."""

from scoresde.interop.checkpoint import Checkpoint
from scoresde.interop.diffusers import load_diffusers
from scoresde.interop.diffusers_export import export_diffusers
from scoresde.interop.edm import load_edm
from scoresde.interop.edm2 import load_edm2
from scoresde.interop.guided import load_guided_diffusion
from scoresde.interop.recognised import read_checkpoint
from scoresde.interop.score_sde import load_score_sde
from scoresde.interop.wrap import wrap

__all__ = [
    "Checkpoint",
    "export_diffusers",
    "load_diffusers",
    "load_edm",
    "load_edm2",
    "load_guided_diffusion",
    "load_score_sde",
    "read_checkpoint",
    "wrap",
]
