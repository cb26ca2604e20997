"""Deprecated: `scoresde.numerics.ode` has taken its place."""

import warnings

from scoresde.numerics.ode import *  # noqa: F403

warnings.warn("scoresde.ode has moved: import from scoresde.numerics.ode", DeprecationWarning, stacklevel=2)
