"""The Runge-Kutta pairs against the order conditions, and the integrator against closed-form solutions."""

import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde.numerics.ode import (
    BOSH3,
    DOP853,
    DORMAND_PRINCE,
    TSIT5,
    AcceptedSteps,
    EmbeddedPair,
    ErrorNorm,
    Status,
    integrate,
    integrate_through,
)

F64 = torch.float64
PAIRS = {"bosh3": BOSH3, "dopri5": DORMAND_PRINCE, "tsit5": TSIT5, "dop853": DOP853}
# Orders of the error estimate's comparison solutions: those of `error` and `coarse`.
EMBEDDED = {3: (2,), 5: (4,), 8: (5, 3)}
Tree = tuple  # a rooted tree is the sorted tuple of its branches


@pytest.fixture(params=list(PAIRS.values()), ids=list(PAIRS))
def tableau(request: pytest.FixtureRequest) -> EmbeddedPair:
    return request.param


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(branch) for branch in tree)


@functools.cache
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


def butcher(tableau: EmbeddedPair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, b and c, over all stages, the one shared with the next step included."""
    size = len(tableau.nodes)
    matrix = np.zeros((size, size))
    for i, row in enumerate(tableau.stages):
        matrix[i + 1, : len(row)] = row
    return matrix, matrix[-1].copy(), np.array(tableau.nodes)


def test_the_number_of_trees_is_known() -> None:
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


def test_rows_sum_to_the_nodes(tableau: EmbeddedPair) -> None:
    matrix, _, c = butcher(tableau)
    np.testing.assert_allclose(matrix.sum(1), c, atol=2e-14)
    assert c[-1] == 1  # first same as last
    for estimate in (tableau.error, tableau.coarse):
        assert estimate is None or len(estimate) == len(c)


def test_order_conditions(tableau: EmbeddedPair) -> None:
    """Hairer, Nørsett & Wanner 1993, theorem II.2.13: Σ b_i Φ_i(τ) = 1/γ(τ) for every tree up to the order."""
    matrix, b, _ = butcher(tableau)
    others = [b - np.array(e) for e in (tableau.error, tableau.coarse) if e is not None]
    for solution, order in zip([b, *others], (tableau.order, *EMBEDDED[tableau.order]), strict=True):
        for n in range(1, order + 2):
            defect = max(abs(solution @ weights(t, matrix) - 1 / density(t)) for t in trees(n))
            # Coefficients of up to 43 in 16 digits.
            assert (defect < 1e-13) == (n <= order)
            assert defect < 1e-13 or defect > 1e-6


def riccati(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """y = 1/(1/y₀ − sin t)."""
    return y**2 * t.cos()[:, None]


@pytest.mark.parametrize(
    ("name", "problem", "n"),
    [
        ("bosh3", "linear", 64),
        ("dopri5", "linear", 64),
        ("tsit5", "linear", 128),
        ("dop853", "linear", 12),
        ("bosh3", "riccati", 64),
        ("dopri5", "riccati", 64),
        ("tsit5", "riccati", 64),
    ],
)
def test_observed_order(name: str, problem: str, n: int) -> None:
    """Fixed steps: under a tolerance that nothing fails, each interval takes one."""
    y = torch.tensor([[0.5, 0.4], [0.6, 0.3]], dtype=F64)
    if problem == "linear":
        field, stop, truth = linear, 4.0, y @ torch.linalg.matrix_exp(4 * MATRIX).T
    else:
        field, stop, truth = riccati, 3.0, 1 / (1 / y - math.sin(3))
    errors = []
    for steps in (n, 2 * n):
        times = torch.linspace(0, stop, steps + 1, dtype=F64).tolist()
        *_, out = integrate_through(field, y, times, rms(1e9), PAIRS[name])
        assert out.accepted.tolist() == [steps, steps]
        errors.append(float((out.y - truth).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(PAIRS[name].order, abs=0.15)


def rms(tol: float) -> ErrorNorm:
    def norm(error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
        return (error / (tol + tol * torch.maximum(before.abs(), after.abs()))).square().mean(1).sqrt()

    return norm


def test_polynomials_are_exact(tableau: EmbeddedPair) -> None:
    coefficients = [2.0, -1.0, 3.0, 0.5, -4.0, 1.0, 2.0, -0.5][: tableau.order]

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


@pytest.mark.parametrize(("name", "order"), [("bosh3", 3), ("dopri5", 4), ("tsit5", 4), ("dop853", 7)])
def test_the_dense_output_and_its_slope_are_exact_for_polynomials(name: str, order: int) -> None:
    """Slopes t^k at the stages are those of t^(k + 1)/(k + 1), at every place of the step."""
    pair, places = PAIRS[name], torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=F64)
    times = torch.tensor((*pair.nodes, *pair.extra_nodes), dtype=F64)
    for k in range(order):
        moved, slope = (weights.mT @ times**k for weights in (pair.within(places), pair.rates_within(places)))
        torch.testing.assert_close(moved, places ** (k + 1) / (k + 1), rtol=0, atol=1e-12)
        torch.testing.assert_close(slope, places**k, rtol=0, atol=1e-12)


def test_no_step_is_longer_than_a_function_of_its_time_allows() -> None:
    steps: list[AcceptedSteps] = []
    y = torch.ones(2, 1, dtype=F64)
    integrate(lambda _, y, rows: -y, y, 1.0, 4.0, rms(1e3), on_steps=steps.append, longest=lambda t: t / 10)
    for step in steps:
        assert bool((step.size <= step.start / 10 + 1e-12).all())
    # 1.1^14 < 4 < 1.1^15: as long as they may be.
    assert sum(len(step.rows) for step in steps) == 2 * 15


@pytest.mark.parametrize("stop", [3.0, -3.0])
def test_error_is_proportional_to_the_tolerance(tableau: EmbeddedPair, stop: float) -> None:
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
    # Step counts grow as tolerance^(-1/order), less two evaluations to choose the first step.
    growth = math.log(counts[2] / counts[0]) / math.log(tolerances[0] / tolerances[2])
    assert growth == pytest.approx(1 / tableau.order, abs=0.08)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (F64, 1e-5), (F64, 1e-10)])
def test_the_first_step_wastes_nothing(tableau: EmbeddedPair, dtype: torch.dtype, tol: float) -> None:
    """The first half of an even problem takes no more steps than the second, but for a few that grow by up to 10."""
    y = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=dtype)

    def circle(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return torch.stack([y[:, 1], -y[:, 0]], 1)

    first, whole = integrate_through(circle, y, [0.0, 6.0, 12.0], rms(tol), tableau)
    assert bool((2 * first.accepted <= whole.accepted + 5).all())
    assert bool((whole.rejected <= 2).all())


def test_there_and_back(tableau: EmbeddedPair) -> None:
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


def test_nfe_counts_the_rows_passed(tableau: EmbeddedPair) -> None:
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
    bad = int(Status.NOT_FINITE)
    assert out.status.tolist() == [0, bad, bad, 0]
    assert out.t[[0, 1, 3]].tolist() == [1, 0, 1]
    assert float(out.t[2]) == pytest.approx(0.5, abs=1e-6)
    assert bool(out.y.isfinite().all())
    torch.testing.assert_close(out.y[[0, 3]], torch.full((2, 2), math.exp(-1), dtype=F64), rtol=0, atol=1e-5)
    # Row 2 is left just before the place where it breaks.
    torch.testing.assert_close(out.y[2], torch.full((2,), math.exp(-0.5), dtype=F64), rtol=0, atol=1e-4)
    assert calls["n"] < 3000


def test_a_solution_that_blows_up() -> None:
    out = integrate(lambda t, y, rows: y**2, torch.tensor([[1.0], [0.1]], dtype=F64), 0.0, 2.0, rms(1e-6))
    # y = 1/(1 − t)
    assert out.status.tolist() == [Status.UNDERFLOW, Status.ARRIVED]
    assert float(out.t[0]) == pytest.approx(1, abs=1e-5)
    assert float(out.y[0, 0]) > 1e5
    assert float(out.y[1, 0]) == pytest.approx(1 / 8, abs=1e-6)


def test_a_stiff_field_stops_at_the_limit() -> None:
    calls: Counter[str] = Counter()

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        calls["n"] += 1
        return -1e8 * (y - t.cos()[:, None])

    out = integrate(field, torch.ones(2, 1, dtype=F64), 0.0, 1.0, rms(1e-6), max_steps=50)
    assert not bool(out.arrived.any())
    assert out.nfe.tolist() == [302, 302]
    assert calls["n"] == 302
    assert out.status.tolist() == [Status.TOO_MANY_STEPS] * 2
    assert (out.accepted + out.rejected).tolist() == [50, 50]
    # The partial result: on the solution, where it says.
    assert bool(((out.t > 0) & (out.t < 1)).all())
    torch.testing.assert_close(out.y[:, 0], out.t.cos(), rtol=0, atol=1e-4)


def test_a_solution_at_several_times(tableau: EmbeddedPair) -> None:
    start = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=F64)
    times = [0.0, -0.1, -0.15, -2.0, -3.0]
    solutions = list(integrate_through(linear, start, times, rms(1e-8), tableau))
    assert len(solutions) == 4
    for t, out in zip(times[1:], solutions, strict=True):
        exact = start @ torch.linalg.matrix_exp(MATRIX * t).T
        torch.testing.assert_close(out.y, exact, rtol=0, atol=1e-6)
        assert out.t.tolist() == [t, t]
    assert torch.equal(start, torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=F64))
    # Counts add up, and an interval goes on with the slope and the step of the one before.
    stages = len(tableau.stages)
    last = solutions[-1]
    assert torch.equal(last.nfe, 2 + stages * (last.accepted + last.rejected))
    direct = integrate(linear, start, 0.0, -3.0, rms(1e-8), tableau)
    assert bool((last.accepted <= direct.accepted + 8).all())
    assert bool((solutions[0].nfe < last.nfe).all())


def test_a_sample_that_stopped_stays() -> None:
    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return torch.where(((rows == 1) & (t > 0.5))[:, None], torch.nan, -y)

    y = torch.ones(3, 2, dtype=F64)
    first, second, third = integrate_through(field, y, [0.0, 0.4, 0.8, 1.0], rms(1e-8))
    assert first.arrived.tolist() == [True] * 3
    assert second.arrived.tolist() == third.arrived.tolist() == [True, False, True]
    assert torch.equal(second.y[1], third.y[1])
    assert second.nfe[1] == third.nfe[1]
    assert float(third.t[1]) == pytest.approx(0.5, abs=1e-6)
    torch.testing.assert_close(third.y[[0, 2]], torch.full((2, 2), math.exp(-1), dtype=F64), rtol=0, atol=1e-7)


def test_accepted_and_rejected_steps_are_counted() -> None:
    """Against a record of the times asked for: each attempt asks once at its last node."""
    seen: list[float] = []

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return (6 * torch.exp(-(((t - 0.5) / 0.1) ** 2)))[:, None] + y * 0

    out = integrate(field, torch.zeros(1, 1, dtype=F64), 0.0, 1.0, rms(1e-6), BOSH3)
    ends = seen[4::3]  # two evaluations to begin with
    rejected = sum(1 for a, b in itertools.pairwise(ends) if b < a)
    assert rejected > 0
    assert out.rejected.tolist() == [rejected]
    assert out.accepted.tolist() == [len(ends) - rejected]
    assert float(out.y[0, 0]) == pytest.approx(0.6 * math.sqrt(math.pi), abs=1e-4)


def test_prepare_replaces_the_time(tableau: EmbeddedPair) -> None:
    def prepare(t: Tensor) -> list[tuple[Tensor, Tensor]]:
        assert t.dtype == F64
        return list(zip(t.cos(), t.sin(), strict=True))

    def field(place: tuple[Tensor, Tensor], y: Tensor, rows: Tensor) -> Tensor:
        return place[0][:, None] * y + place[1][:, None]

    def plain(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return t.cos()[:, None] * y + t.sin()[:, None]

    y = torch.tensor([[1.0], [3.0]], dtype=F64)
    a = integrate(field, y, 0.0, 3.0, rms(1e-6), tableau, prepare=prepare)
    assert torch.equal(a.y, integrate(plain, y, 0.0, 3.0, rms(1e-6), tableau).y)


def test_float32_states_have_float64_times() -> None:
    y = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    out = integrate(lambda t, y, rows: y @ MATRIX.T.float(), y, 1000.0, 1003.0, rms(1e-5))
    exact = y.double() @ torch.linalg.matrix_exp(MATRIX * 3).T
    assert out.t.dtype == F64
    torch.testing.assert_close(out.y.double(), exact, rtol=0, atol=1e-4)


def test_times_stay_finite_where_a_slope_is_not() -> None:
    times = []

    def prepare(t: Tensor) -> Tensor:
        times.append(t)
        return t

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return torch.where((rows == 1)[:, None], torch.tensor([torch.nan, torch.inf])[rows[:, None] % 2], -y)

    out = integrate(field, torch.ones(3, 2, dtype=F64), 0.0, 1.0, rms(1e-6), prepare=prepare)
    assert all(bool(t.isfinite().all()) for t in times)
    assert out.status.tolist() == [Status.ARRIVED, Status.NOT_FINITE, Status.ARRIVED]
    # One attempt tells: no step is small enough.
    assert (out.accepted + out.rejected).tolist()[1] == 1
    alone = integrate(field, torch.ones(1, 2, dtype=F64), 0.0, 1.0, rms(1e-6))
    assert torch.equal(out.y[0], alone.y[0])
