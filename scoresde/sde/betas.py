"""Published tables of the noise β_t of a Markov chain's steps."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import whole_number

__all__ = ["cosine_betas", "erasure_betas", "linear_betas"]


@checked
def linear_betas(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tensor:
    """β_t linear in t, from `beta_min` at step 1 to `beta_max` at step T, `(T,)` float64 (Ho et al. 2020, section 4).

    The ends are those of T = 1000. For another T, 0.1/T and 20/T leave about as much signal (Nichol & Dhariwal 2021).

    Args:
        steps: Number T of steps.
        beta_min: First entry.
        beta_max: Last entry.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239

    >>> linear_betas(3, 0.1, 0.3).tolist()
    [0.1, 0.2, 0.3]
    """
    return torch.linspace(beta_min, beta_max, whole_number("steps", steps, at_least=2), dtype=torch.float64)


@checked
def cosine_betas(steps: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """β_t of the cosine schedule, `(T,)` float64 (Nichol & Dhariwal 2021, eq. 17).

        ᾱ_t = cos² θ_t/cos² θ_0,    θ_t = (π/2) (t/T + s)/(1 + s),    β_t = min(1 − ᾱ_t/ᾱ_{t−1}, β_max)

    Args:
        steps: Number T of steps.
        s: Offset of the angle, which keeps β_1 from being too small.
        beta_max: Largest entry, which the last steps reach.

    Raises:
        ValueError: An offset or a largest entry that is not between 0 and 1.

    References:
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672
    """
    for name, value in (("s", s), ("beta_max", beta_max)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}, expected a number between 0 and 1")
    steps = whole_number("steps", steps, at_least=2)
    # From θ_{t−1} to θ_t the square of the cosine falls by sin(θ_t − θ_{t−1}) sin(θ_t + θ_{t−1}), without cancellation.
    unit = 0.5 * math.pi / (1 + s)
    theta = unit * (torch.arange(steps + 1, dtype=torch.float64) / steps + s)
    fall = math.sin(unit / steps) * (theta[1:] + theta[:-1]).sin()
    return (fall / theta[:-1].cos().square()).clamp(max=beta_max)


@checked
def erasure_betas(steps: int) -> Tensor:
    """β_t = 1/(T − t + 1), with which every step erases the same share 1/T of the data, `(T,)` float64.

    It is the schedule of the binomial chain of Sohl-Dickstein et al. (2015, section 2.4.1) and of the absorbing chain
    of Austin et al. (2021, section 3.1): ᾱ_t = 1 − t/T. The last entry is 1, and nothing is left of the data. For a
    chain that does not take 1, such as `GaussianChain`, leave it out: `erasure_betas(T + 1)[:-1]` has T steps.

    Args:
        steps: Number T of steps.

    References:
        Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics,
            https://arxiv.org/abs/1503.03585
        Austin et al. 2021, Structured denoising diffusion models in discrete state-spaces,
            https://arxiv.org/abs/2107.03006

    >>> erasure_betas(4).tolist()
    [0.25, 0.3333333333333333, 0.5, 1.0]
    """
    return 1 / torch.arange(whole_number("steps", steps, at_least=2), 0, -1, dtype=torch.float64)
