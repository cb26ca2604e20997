"""The Runge-Kutta pairs against the order conditions, and the integrator against closed-form solutions."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde.ode import BOSH3, DORMAND_PRINCE, Tableau, integrate

F64 = torch.float64
PAIRS = {"bosh3": BOSH3, "dopri5": DORMAND_PRINCE}
Tree = tuple  # a rooted tree is the sorted tuple of its branches


@pytest.fixture(params=PAIRS.values(), ids=PAIRS.keys())
def tableau(request: pytest.FixtureRequest) -> Tableau:
    return request.param


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(branch) for branch in tree)


def trees(order: int) -> list[Tree]:
    """All rooted trees of this many nodes."""
    out = set()

    def grow(left: int, branches: tuple[Tree, ...]) -> None:
        if left == 0:
            out.add(tuple(sorted(branches, key=repr)))
        for size in range(1, left + 1):
            for branch in trees(size):
                grow(left - size, (*branches, branch))

    grow(order - 1, ())
    return sorted(out, key=repr)


def density(tree: Tree) -> int:
    return nodes(tree) * math.prod(density(branch) for branch in tree)


def weights(tree: Tree, matrix: np.ndarray) -> np.ndarray:
    out = np.ones(len(matrix))
    for branch in tree:
        out = out * (matrix @ weights(branch, matrix))
    return out


def butcher(tableau: Tableau) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, b, b̂ and c, over all stages, the one shared with the next step included."""
    size = len(tableau.nodes)
    matrix = np.zeros((size, size))
    for i, row in enumerate(tableau.stages):
        matrix[i + 1, : len(row)] = row
    b = matrix[-1].copy()
    return matrix, b, b - np.array(tableau.error), np.array(tableau.nodes)


def test_the_number_of_trees_is_known() -> None:
    assert [len(trees(n)) for n in range(1, 6)] == [1, 1, 2, 4, 9]


def test_rows_sum_to_the_nodes(tableau: Tableau) -> None:
    matrix, b, hat, c = butcher(tableau)
    np.testing.assert_allclose(matrix.sum(1), c, atol=1e-14)
    assert b.sum() == pytest.approx(1, abs=1e-14)
    assert hat.sum() == pytest.approx(1, abs=1e-14)
    assert len(tableau.error) == len(tableau.nodes)
    assert c[-1] == 1  # first same as last


def test_order_conditions(tableau: Tableau) -> None:
    """Hairer, Nørsett & Wanner 1993, theorem II.2.13: Σ b_i Φ_i(τ) = 1/γ(τ) for every tree up to the order."""
    matrix, b, hat, _ = butcher(tableau)
    for order in range(1, tableau.order + 2):
        defects = [
            (abs(b @ weights(t, matrix) - 1 / density(t)), abs(hat @ weights(t, matrix) - 1 / density(t)))
            for t in trees(order)
        ]
        step, embedded = (max(d[k] for d in defects) for k in (0, 1))
        assert (step < 1e-14) == (order <= tableau.order)
        assert (embedded < 1e-14) == (order <= tableau.order - 1)


def rms(tol: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def norm(error: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return (error / (tol + tol * torch.maximum(before.abs(), after.abs()))).square().mean(1).sqrt()

    return norm


def test_polynomials_are_exact(tableau: Tableau) -> None:
    coefficients = [2.0, -1.0, 3.0, 0.5, -4.0][: tableau.order]

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return sum(c * t**k for k, c in enumerate(coefficients))[:, None].expand_as(y)  # type: ignore[union-attr]

    y = torch.zeros(2, 3, dtype=F64)
    out = integrate(field, y, 0.5, 2.5, rms(1e3), tableau)
    wanted = sum(c * (2.5 ** (k + 1) - 0.5 ** (k + 1)) / (k + 1) for k, c in enumerate(coefficients))
    torch.testing.assert_close(out.y, torch.full_like(y, wanted), rtol=1e-13, atol=0)
    # One degree more is not.
    coefficients = [0.0] * tableau.order + [1.0]
    out = integrate(field, y, 0.5, 2.5, rms(1e3), tableau)
    exact = (2.5 ** (tableau.order + 1) - 0.5 ** (tableau.order + 1)) / (tableau.order + 1)
    assert abs(float(out.y[0, 0]) / exact - 1) > 1e-6


MATRIX = torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=F64)


def linear(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    return y @ MATRIX.T


@pytest.mark.parametrize("stop", [3.0, -3.0])
def test_error_is_proportional_to_the_tolerance(tableau: Tableau, stop: float) -> None:
    start = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=F64)
    exact = start @ torch.linalg.matrix_exp(MATRIX * stop).T
    tolerances = [1e-4, 1e-6, 1e-8]
    errors, counts = [], []
    for tol in tolerances:
        out = integrate(linear, start, 0.0, stop, rms(tol), tableau)
        assert bool(out.arrived.all())
        errors.append(float(((out.y - exact) / (1 + exact.abs())).abs().max()))
        counts.append(float(out.nfe.double().mean()))
    for tol, error in zip(tolerances, errors, strict=True):
        assert error < 30 * tol
        assert error > 1e-3 * tol  # nor is it wasteful
    slope = math.log(errors[0] / errors[2]) / math.log(tolerances[0] / tolerances[2])
    assert slope == pytest.approx(1, abs=0.25)
    # Step counts grow as tolerance^(-1/order).
    growth = math.log(counts[2] / counts[0]) / math.log(tolerances[0] / tolerances[2])
    assert growth == pytest.approx(1 / tableau.order, abs=0.08)


def test_there_and_back(tableau: Tableau) -> None:
    start = torch.tensor([[1.0, 0.5]], dtype=F64)
    there = integrate(linear, start, 1.0, 3.0, rms(1e-9), tableau)
    back = integrate(linear, there.y, 3.0, 1.0, rms(1e-9), tableau)
    assert (back.y - start).abs().max() < 1e-7


def pendulum(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -y[:, 0].sin() * (1 + 0.3 * t.cos())], 1)


def test_samples_do_not_touch_each_other() -> None:
    y = torch.randn(12, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 12)[:, None]
    together = integrate(pendulum, y, 0.0, 5.0, rms(1e-6))
    assert len(set(together.nfe.tolist())) > 3  # they do take different steps
    for i in range(12):
        alone = integrate(pendulum, y[i : i + 1], 0.0, 5.0, rms(1e-6))
        torch.testing.assert_close(alone.y[0], together.y[i], rtol=0, atol=1e-12)
        assert alone.nfe[0] == together.nfe[i]
    order = torch.arange(11, -1, -1)
    torch.testing.assert_close(
        integrate(pendulum, y[order], 0.0, 5.0, rms(1e-6)).y, together.y[order], rtol=0, atol=1e-12
    )


def test_rows_say_which_sample_it_is() -> None:
    rates = torch.linspace(-2, 2, 7, dtype=F64)

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return rates[rows, None] * y

    out = integrate(field, torch.ones(7, 1, dtype=F64), 0.0, 1.0, rms(1e-9))
    torch.testing.assert_close(out.y[:, 0], rates.exp(), rtol=1e-8, atol=0)


def test_nfe_counts_the_rows_passed(tableau: Tableau) -> None:
    seen: Counter[int] = Counter()

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        assert t.shape == rows.shape == y.shape[:1]
        seen.update(rows.tolist())
        return pendulum(t, y, rows)

    y = torch.tensor([[0.1, 0.0], [2.0, 0.0], [3.1, 4.0]], dtype=F64)
    out = integrate(field, y, 0.0, 4.0, rms(1e-5), tableau)
    assert out.nfe.tolist() == [seen[i] for i in range(3)]


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, -0.3), (7.3, 80.0)])
def test_the_last_step_ends_at_the_end(ends: tuple[float, float]) -> None:
    times: list[Tensor] = []

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        times.append(t)
        return -y

    integrate(field, torch.ones(2, 1, dtype=F64), *ends, rms(1e-6))
    every = torch.cat(times)
    ulp = 4 * max(abs(e) for e in ends) * torch.finfo(F64).eps
    assert abs(float(times[-1][0]) - ends[1]) <= ulp
    assert float(every.min()) >= min(ends) - ulp  # nothing is asked beyond the ends
    assert float(every.max()) <= max(ends) + ulp


def test_input_is_left_alone_and_dtype_kept() -> None:
    for dtype in (torch.float32, F64):
        y = torch.ones(2, 1, dtype=dtype)
        out = integrate(lambda t, y, rows: -y, y, 0.0, 1.0, rms(1e-3))
        assert torch.equal(y, torch.ones(2, 1, dtype=dtype))
        assert out.y.dtype == dtype


def test_an_interval_of_no_length() -> None:
    y = torch.ones(2, 1, dtype=F64)
    out = integrate(lambda t, y, rows: -y, y, 1.0, 1.0, rms(1e-6))
    assert torch.equal(out.y, y)
    assert bool(out.arrived.all())


def test_a_field_that_is_not_finite() -> None:
    calls: Counter[str] = Counter()

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        calls["n"] += 1
        bad = (rows == 1) | ((rows == 2) & (t > 0.5))
        return torch.where(bad[:, None], torch.nan, -y)

    y = torch.ones(4, 2, dtype=F64)
    out = integrate(field, y, 0.0, 1.0, rms(1e-6))
    assert out.arrived.tolist() == [True, False, False, True]
    assert bool(out.y.isfinite().all())
    torch.testing.assert_close(out.y[[0, 3]], torch.full((2, 2), math.exp(-1), dtype=F64), rtol=0, atol=1e-5)
    # Row 2 is left just before the place where it breaks.
    torch.testing.assert_close(out.y[2], torch.full((2,), math.exp(-0.5), dtype=F64), rtol=0, atol=1e-4)
    assert calls["n"] < 3000


def test_a_solution_that_blows_up() -> None:
    out = integrate(lambda t, y, rows: y**2, torch.ones(1, 1, dtype=F64), 0.0, 2.0, rms(1e-6))
    assert not bool(out.arrived.any())


def test_a_stiff_field_stops_at_the_limit() -> None:
    calls: Counter[str] = Counter()

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        calls["n"] += 1
        return -1e8 * (y - t.cos()[:, None])

    out = integrate(field, torch.ones(2, 1, dtype=F64), 0.0, 1.0, rms(1e-6), max_steps=50)
    assert not bool(out.arrived.any())
    assert out.nfe.tolist() == [302, 302]
    assert calls["n"] == 302
