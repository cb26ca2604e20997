"""Deprecated: `scoresde.numerics.trace` has taken its place."""

import warnings

from scoresde.numerics.trace import *  # noqa: F403

warnings.warn("scoresde.divergence has moved: import from scoresde.numerics.trace", DeprecationWarning, stacklevel=2)
