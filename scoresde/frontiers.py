"""Deprecated: `scoresde.compare.frontier` has taken its place."""

import warnings

from scoresde.compare.frontier import *  # noqa: F403

warnings.warn("scoresde.frontiers has moved: import from scoresde.compare.frontier", DeprecationWarning, stacklevel=2)
