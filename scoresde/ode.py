"""Deprecated: `scoresde.numerics.ode` has taken its place."""

import warnings

from scoresde.numerics.ode import *  # noqa: F403
from scoresde.numerics.ode import AcceptedSteps as Steps  # noqa: F401
from scoresde.numerics.ode import EmbeddedPair as Tableau  # noqa: F401
from scoresde.numerics.ode import integrate_through as follow  # noqa: F401

warnings.warn("scoresde.ode has moved: import from scoresde.numerics.ode", DeprecationWarning, stacklevel=2)
