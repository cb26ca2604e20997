"""Likelihoods of a sweep's jobs against the best of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoresde.cli.best_so_far import against_best, best_two
from scoresde.cli.jobs import read_jobs
from scoresde.numerics.paired import PairedDifference
from tests.report.test_report_sweep import add_samples, job, make_run

COMMON = np.random.default_rng(0).normal(2.0, 0.3, 100)
NOISE = np.random.default_rng(1).normal(0.0, 0.03, (4, 100))


def add_job(sweep: Path, number: int, shift: float, unit: str = "bits/dim", sign: int = 1, **settings: Any) -> Path:
    """A job of a run whose samples are worse by `shift`."""
    values = sign * (COMMON + shift + NOISE[number])
    run = make_run(sweep / f"run{number}", bits=float(values.mean()))
    add_samples(run, values.tolist(), **settings)
    value = abs(float(values.mean())) if unit != "nats" else float(values.mean())
    job(sweep, number, run=run.name, runs=[run.name], value=value, unit=unit, seconds=1.0)
    return run


def difference(first: int, second: int, shift: float) -> PairedDifference:
    return PairedDifference.of(COMMON + NOISE[first], COMMON + shift + NOISE[second])


def test_a_job_is_compared_with_the_best_so_far(tmp_path: Path) -> None:
    first = add_job(tmp_path, 0, 0.0)
    assert against_best(tmp_path, first) is None
    second = add_job(tmp_path, 1, 0.05)
    said = against_best(tmp_path, second)
    error = str(difference(0, 1, 0.05))
    assert said == f"job 0, the best so far, is better than this run by {error} bits/dim, on the same 100 samples"
    third = add_job(tmp_path, 2, -0.05)
    said = against_best(tmp_path, third)
    better = PairedDifference.of(COMMON - 0.05 + NOISE[2], COMMON + NOISE[0])
    assert said == f"this run is better than job 0, the best so far, by {better} bits/dim, on the same 100 samples"
    said = best_two(tmp_path, read_jobs(tmp_path))
    assert said == f"job 2 is better than job 0 by {better} bits/dim, on the same 100 samples"


@pytest.mark.parametrize("unit", ["−nats", "nats"])
def test_more_nats_are_better(tmp_path: Path, unit: str) -> None:
    for number, shift in ((0, 0.05), (1, 0.0)):
        add_job(tmp_path, number, shift, unit, sign=-1, unit_of_table="nats")
    for table in tmp_path.glob("*/likelihood-test.json"):
        table.write_text(table.read_text().replace("bits_per_dim", "nats"))
    said = best_two(tmp_path, read_jobs(tmp_path))
    assert said is not None
    assert said.startswith("job 1 is better than job 0 by 0.0")
    assert said.endswith("nats, on the same 100 samples")


def test_what_is_no_pair_is_not_compared(tmp_path: Path) -> None:
    add_job(tmp_path, 0, 0.0)
    add_job(tmp_path, 1, 0.05, seed=1)
    assert best_two(tmp_path, read_jobs(tmp_path)) is None
    # The same run twice, as of two settings of its likelihood; and a value that is not that of the table.
    job(tmp_path, 1, run="run0", runs=["run0"], value=1.5, unit="bits/dim", seconds=1.0)
    assert best_two(tmp_path, read_jobs(tmp_path)) is None
    run = add_job(tmp_path, 2, 0.05)
    job(tmp_path, 0, run="run0", runs=["run0"], value=1.5, unit="bits/dim", seconds=1.0)
    assert against_best(tmp_path, run) is None
    # Another metric, several runs of a job, and jobs that failed.
    for changes in ({"unit": "frechet_distance"}, {"runs": ["run0", "run1"]}, {"status": "failed"}, {"value": None}):
        job(tmp_path, 0, run="run0", **{"runs": ["run0"], "value": 2.0, "unit": "bits/dim", "seconds": 1.0, **changes})
        job(tmp_path, 1, status="waiting", runs=[], value=None, unit="", seconds=0.0)
        assert against_best(tmp_path, run) is None
