"""Quadrature and interpolation against polynomials, for which they are exact."""

import math

import pytest
import torch

from scoresde.numerics.quadrature import gauss_legendre, lagrange, panels


@pytest.mark.parametrize("count", [1, 2, 5, 20, 48])
def test_polynomials_of_degree_2n_minus_1_are_integrated_exactly(count: int) -> None:
    nodes, weights = gauss_legendre(count)
    for degree in range(2 * count):
        exact = 0.0 if degree % 2 else 2 / (degree + 1)
        assert float(weights @ nodes**degree) == pytest.approx(exact, abs=1e-13)
    if count < 10:  # and the next is not
        assert abs(float(weights @ nodes ** (2 * count)) - 2 / (2 * count + 1)) > 1e-6


@pytest.mark.parametrize("number", [1, 3, 10])
def test_panels_cover_the_unit_interval(number: int) -> None:
    nodes, weights = panels(20, number)
    assert nodes.shape == weights.shape == (20 * number,)
    assert bool((nodes.diff() > 0).all())
    assert float(weights.sum()) == pytest.approx(1, abs=1e-13)
    assert float(weights @ nodes.exp()) == pytest.approx(math.e - 1, rel=1e-13)


def test_interpolation_is_exact_for_polynomials_through_the_points_used() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    at = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    counts = torch.tensor([1, 2, 3, 4, 2])
    used = torch.arange(4) < counts[:, None]
    basis = lagrange(points, used, at) * used[..., None]
    for degree in range(4):
        values = (basis * (points**degree)[..., None]).sum(1)
        exact = at**degree
        for row, count in enumerate(counts.tolist()):
            close = torch.allclose(values[row], exact[row], rtol=1e-9, atol=1e-9)
            assert close == (degree < count)
