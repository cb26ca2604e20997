"""Forward SDEs with affine drift and Gaussian kernels, and their reverse."""

from scoresde.numerics.values import expand_to
from scoresde.sde.base import SDE
from scoresde.sde.chains import DDPMSDE, DiscreteVPSDE
from scoresde.sde.levels import NCSNSDE, DiscreteVESDE
from scoresde.sde.reverse import ReverseSDE
from scoresde.sde.schedules import EDMSDE, VESDE, FlowSDE
from scoresde.sde.variance_preserving import VPSDE, CosineSDE, SubVPSDE

__all__ = [
    "DDPMSDE",
    "EDMSDE",
    "NCSNSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "CosineSDE",
    "DiscreteVESDE",
    "DiscreteVPSDE",
    "FlowSDE",
    "ReverseSDE",
    "SubVPSDE",
    "expand_to",
]
