"""Deprecated: `scoresde.numerics.html` has taken its place."""

import warnings

from scoresde.numerics.html import *  # noqa: F403

warnings.warn("scoresde.reprs has moved: import from scoresde.numerics.html", DeprecationWarning, stacklevel=2)
