"""φ-functions against arbitrary precision."""

import math

import mpmath
import pytest
import torch

from scoresde.numerics.phi import phi

F64 = torch.float64
LARGE = torch.tensor(
    [1e-300, 1e-17, 1e-8, 1e-3, 0.1, 0.5, 1, 2, 3, 3.999, 4, 4.001, 5, 5.999, 6.001, 8, 20, 50, 300], dtype=F64
)
POINTS = torch.cat((-LARGE.flip(0), torch.zeros(1, dtype=F64), LARGE, torch.linspace(-12, 12, 400, dtype=F64)))


def exact(k: int, z: float) -> mpmath.mpf:
    """1/(k − 1)! ∫₀¹ e^{(1 − θ) z} θ^{k−1} dθ, as a confluent hypergeometric function."""
    with mpmath.workdps(40):
        return mpmath.hyp1f1(1, k + 1, mpmath.mpf(z)) / mpmath.factorial(k)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 6])
def test_against_mpmath(k: int) -> None:
    for z, got in zip(POINTS.tolist(), phi(k, POINTS).tolist(), strict=True):
        wanted = exact(k, z)
        # A few roundings, each of 1.1e-16; e^z at z = 300 is as good as the library's.
        assert abs((mpmath.mpf(got) - wanted) / wanted) < 1.5e-15, z


def test_at_zero_and_at_infinity() -> None:
    ends = torch.tensor([0.0, -1e10, -math.inf], dtype=F64)
    for k in range(1, 6):
        zero, far, infinite = phi(k, ends).tolist()
        assert zero == pytest.approx(1 / math.factorial(k), rel=1e-15)
        assert far == pytest.approx(1e-10 / math.factorial(k - 1), rel=1e-9)
        assert infinite == 0


def test_shapes_and_dtypes() -> None:
    z = torch.tensor([[-1.0, 0.5]])
    assert phi(2, z).shape == (1, 2)
    assert phi(2, z).dtype == F64
    assert phi(1, torch.tensor(1.0)).item() == pytest.approx(math.e - 1)


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        phi(-1, torch.zeros(1))
