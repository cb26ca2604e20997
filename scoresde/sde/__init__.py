"""Forward processes: SDEs with affine drift and Gaussian kernels, their reverse, and Markov chains."""

from scoresde.numerics.values import expand_to
from scoresde.sde.base import SDE
from scoresde.sde.betas import cosine_betas, erasure_betas, linear_betas
from scoresde.sde.chains import DDPMSDE, CosineDDPMSDE, DiscreteVPSDE, GaussianChain
from scoresde.sde.erasure import BinomialChain, CategoricalChain
from scoresde.sde.erasure_sde import ErasureVPSDE
from scoresde.sde.levels import NCSNSDE, DiscreteVESDE
from scoresde.sde.markov import Chain
from scoresde.sde.reverse import ReverseSDE
from scoresde.sde.schedules import EDMSDE, VESDE, FlowSDE
from scoresde.sde.shifted import ShiftedSDE, resolution_shift
from scoresde.sde.step_distributions import CategoricalStep, GaussianStep, StepDistribution
from scoresde.sde.variance_preserving import VPSDE, CosineSDE, SubVPSDE

__all__ = [
    "DDPMSDE",
    "EDMSDE",
    "NCSNSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "BinomialChain",
    "CategoricalChain",
    "CategoricalStep",
    "Chain",
    "CosineDDPMSDE",
    "CosineSDE",
    "DiscreteVESDE",
    "DiscreteVPSDE",
    "ErasureVPSDE",
    "FlowSDE",
    "GaussianChain",
    "GaussianStep",
    "ReverseSDE",
    "ShiftedSDE",
    "StepDistribution",
    "SubVPSDE",
    "cosine_betas",
    "erasure_betas",
    "expand_to",
    "linear_betas",
    "resolution_shift",
]
