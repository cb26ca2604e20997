"""Models of other projects: checkpoints that are read without running anything in them, and functions of one's own."""

from scoresde.interop.wrap import wrap

__all__ = ["wrap"]
