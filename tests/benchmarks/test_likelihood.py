"""The benchmarks of likelihoods: costs at equal error, another revision, points, and how bars are judged."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contenders import Failures
from likelihood_bars import Draw, coverage, draws
from likelihood_methods import DEFAULT, EXACT, FIXED, ONE, OURS, REFERENCE, SCORE_SDE, methods
from likelihood_models import SDES, make_model
from likelihood_problems import DATA, DRAWS, mixture_problems
from likelihood_reference import Reference
from likelihood_rows import RULER, Row, index, measure
from likelihood_tables import readings, repeats, summary

from scoresde.likelihood import Exact, log_likelihood

ROOT = Path(__file__).resolve().parents[2]
ROW = Row(
    problem="a",
    points=DRAWS,
    sde="vp",
    wanted=0.2,
    library=OURS,
    family=DEFAULT,
    tolerance=1e-2,
    divergence=EXACT,
    size=10,
    mean=0.0,
    max=0.0,
    max_plain=math.nan,
    rms=0.0,
    coverage=1.0,
    forwards=1.0,
    divergences=1.0,
    products=1.0,
    equivalents=1.0,
    seconds=1.0,
    ratio=1.0,
    turns=1,
    known=8,
)


def _curve(library: str, *values: tuple[float, float, float]) -> list[Row]:
    """Rows of tolerances, errors in nats for each of 10 dimensions, and costs, four times as large if exact."""
    probe = FIXED if library == SCORE_SDE else ONE
    family = RULER[1] if library == SCORE_SDE else DEFAULT
    rows = []
    for tolerance, error, cost in values:
        row = replace(ROW, library=library, family=family, tolerance=tolerance, max=10 * error, ratio=4 * cost)
        rows += [row, replace(row, divergence=probe, ratio=cost, equivalents=100 * cost, rms=3.0)]
    return rows


def test_costs_are_read_off_between_tolerances() -> None:
    found = readings(_curve(OURS, (1e-2, 1e-2, 1.0), (1e-4, 1e-4, 4.0)), target=1e-3)[OURS, DEFAULT]
    # Half way between the logarithms of the errors.
    assert found.tolerance == pytest.approx(1e-3)
    assert found.one == pytest.approx(2.0)
    assert found.exact == pytest.approx(8.0)
    assert found.forwards == pytest.approx(200.0)
    assert not found.bound


def test_a_tolerance_that_is_good_by_luck_is_not_taken() -> None:
    rows = _curve(OURS, (1e-2, 1e-5, 1.0), (1e-3, 1e-2, 2.0), (1e-4, 1e-3, 3.0))
    assert readings(rows, target=1e-3)[OURS, DEFAULT].one == pytest.approx(3.0)


def test_costs_of_what_reaches_the_error_everywhere_are_bounds_and_of_what_does_not_are_none() -> None:
    rows = _curve(OURS, (1e-2, 1e-4, 1.0)) + _curve(REFERENCE, (1e-2, 1e-2, 1.0))
    found = readings(rows, target=1e-3)
    assert found[OURS, DEFAULT].bound
    assert (REFERENCE, DEFAULT) not in found


def test_the_summary_compares_at_equal_error() -> None:
    rows = _curve(SCORE_SDE, (1e-4, 1e-2, 0.5), (1e-5, 1e-3, 1.0))
    rows += _curve(OURS, (1e-2, 1e-2, 0.01), (1e-4, 1e-4, 0.04)) + _curve(REFERENCE, (1e-2, 1e-3, 0.08))
    text = summary([rows])
    assert "| a | draws | vp | default | 1.0e-03 | 0.020 | 0.2 | 0.020 | 2 | 0.020 | 1.0e-03 |" in text
    # The reference's largest tolerance is small enough, so that it might be cheaper than that.
    assert "| a | draws | vp | default | default | 1.0e-02 | ? 0.25 | ? 0.25 | ? 2/8 = 0.25 |" in text


def test_repeats_bring_down_the_probes_error_alone() -> None:
    rows = [replace(r, rms=0.3 if r.divergence == EXACT else 2.5) for r in _curve(OURS, (1e-2, 1.0, 1.0))]
    probed = index(rows)[OURS, DEFAULT, 1e-2, ONE]
    assert repeats(probed, rows, 0.5) == pytest.approx((2.5**2 - 0.3**2) / (0.5**2 - 0.3**2))
    assert repeats(probed, rows, 0.3) == math.inf


# ---------------------------------------------------------------- points, methods


def test_dequantised_images_are_inside_the_range_and_rarer_than_draws() -> None:
    drawn, data = mixture_problems("digits", "vp", [DRAWS, DATA], 8, 0)
    assert (drawn.points, data.points) == (DRAWS, DATA)
    assert data.x.shape == drawn.x.shape == (8, 1, 8, 8)
    assert float(data.x.abs().max()) <= 1
    # Not cells' centres, and the cells of the integers.
    cells = (data.x + 1) / 2 * 17
    assert torch.equal(cells.floor().clamp(0, 16), cells.floor())
    assert float((cells - cells.floor()).std()) == pytest.approx(1 / math.sqrt(12), rel=0.1)
    assert float(data.true.mean()) < float(drawn.true.mean())


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    out = Reference(ROOT)
    yield out
    out.close()


def test_another_process_computes_the_same(reference: Reference) -> None:
    (problem,) = mixture_problems("ring", "vp", [DRAWS, DATA], 4, 0)
    options = {"tol": 1e-2, "seed": 3}
    found = reference.run(
        source=problem.source, sde=problem.given, x=problem.x, covariance=False, exact=True, **options
    )
    expected = log_likelihood(problem.model, problem.x, divergence=Exact(), **options)
    assert torch.equal(found["log_prob"], expected.log_prob)
    assert found["forwards"] == float(expected.nfe.double().mean())
    assert found["seconds"] > 0


def test_another_process_tells_why_it_failed_and_goes_on(reference: Reference) -> None:
    (problem,) = mixture_problems("ring", "vp", [DRAWS], 4, 0)
    common = {"source": problem.source, "sde": "vp", "x": problem.x, "covariance": False, "exact": True, "seed": 0}
    with pytest.raises(RuntimeError, match="ValueError: .*tol"):
        reference.run(tol=-1.0, **common)
    assert reference.run(tol=0.1, **common)["log_prob"].shape == (4,)


def test_rows_of_a_mixture(reference: Reference) -> None:
    (problem,) = mixture_problems("ring", "edm", [DRAWS], 4, 0)
    failures = Failures()
    rows, costs = measure(problem, methods(False, [1e-3, 1e-5], [1e-2, 1e-4], reference, failures), 1, failures)
    assert not failures.lines
    found = index(rows)
    exact = found[OURS, DEFAULT, 1e-4, EXACT]
    assert exact.max < 1e-3
    assert exact.coverage == 1
    assert found[RULER].ratio == 1
    assert {r.library for r in rows} == {OURS, REFERENCE, SCORE_SDE}
    # Scores that are exact are always corrected, and in 2 dimensions the trace is exact.
    assert {(r.family, r.divergence) for r in rows if r.library == OURS} == {
        (family, divergence) for family in ("default", "covariance") for divergence in (EXACT, ONE)
    }
    assert costs["forward"] == 1


def test_models_are_made_under_every_sde() -> None:
    source = (torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    for name, make in SDES.items():
        assert type(make_model(source, name).sde) is type(make())


# ---------------------------------------------------------------- bars


def _draw(error: float, seed: int = 0) -> Draw:
    return Draw("ring", seed, "vp", 2, "exact", 1e-4, "Exact", error, 0.6, 0.8, 0.1)


def test_coverage_counts_two_standard_errors_of_solver_and_probes() -> None:
    found = [_draw(-1.9), _draw(2.0), _draw(2.1, 1), _draw(0.0, 1)]
    share, binomial, between = coverage(found)
    assert share == 0.75
    assert binomial == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    # The two problems are half of 1 − 0.5 apart.
    assert between == pytest.approx(math.sqrt(2 * 0.5**2) / 4)


def test_an_error_that_is_denied_counts_and_rounding_does_not() -> None:
    assert replace(_draw(1e-6), probes=0.0, solver=0.0).multiple > 1000
    assert replace(_draw(1e-12), probes=0.0, solver=0.0).multiple < 0.1


@pytest.mark.parametrize("learned", [False, True])
def test_draws_of_a_problem(learned: bool) -> None:
    found = list(draws("tight pair", 0, "edm", learned, [1e-4], 2))
    names = {d.estimator for d in found}
    assert "Exact" in names
    assert all(d.score == ("learned" if learned else "exact") for d in found)
    assert all(d.multiple < 10 for d in found)
    assert all((d.probes == 0) == (d.estimator == "Exact") for d in found)
