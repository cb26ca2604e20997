"""Deprecated: `scoresde.compare.frame` has taken its place."""

import warnings

from scoresde.compare.choose import *  # noqa: F403
from scoresde.compare.frame import *  # noqa: F403

warnings.warn("scoresde.comparisons has moved: import from scoresde.compare.frame", DeprecationWarning, stacklevel=2)
