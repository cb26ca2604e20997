"""The φ-functions of exponential integrators, to full precision everywhere."""

import math

import torch
from torch import Tensor

from scoresde.numerics.values import not_negative

__all__ = ["phi"]


def phi(k: int, z: Tensor) -> Tensor:
    """The function φ_k(z) = Σ_j z^j/(j + k)!, so that φ_0 = e^z and φ_{k+1}(z) = (φ_k(z) − 1/k!)/z.

    The recursion loses digits near 0. There the power series is summed, for z < 0 in the form
    φ_k(z) = e^z/(k − 1)! Σ_j |z|^j/(j! (j + k)), all of whose terms are positive too (Kummer's transformation).

    Args:
        k: Index of the function, 0 or more.
        z: Real numbers of any shape.

    Returns:
        Values in float64, of the shape of z, with a relative error of about 1e-15.

    Raises:
        ValueError: A negative k.

    >>> phi(1, torch.tensor([0.0, 1.0])).tolist() == [1.0, math.e - 1]
    True
    """
    not_negative("k", k)
    z = z.double()
    if k == 0:
        return z.exp()
    # Beyond this reach φ_k differs enough from 1/k! for the recursion.
    reach = max(4.0, float(k))
    far = torch.where(z.abs() > reach, z, 2 * reach)
    value = far.expm1() / far
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / far
    near = z.clamp(-reach, reach)
    terms = 24 + 5 * int(reach)
    rise, fall = near.clamp_min(0), near.clamp_max(0).abs()
    up, down = torch.ones_like(z), torch.zeros_like(z)
    for j in reversed(range(1, terms)):
        up = 1 + up * rise / (k + j)
        down = (down + 1 / (k + j)) * fall / j
    up = up / math.factorial(k)
    down = (down + 1 / k) * (-fall).exp() / math.factorial(k - 1)
    return torch.where(z.abs() > reach, value, torch.where(z < 0, down, up))
