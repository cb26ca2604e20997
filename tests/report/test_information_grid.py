"""Information of several runs side by side: columns, pairs and curves, from files that are not trusted."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scoresde.numerics.paired import PairedDifference
from scoresde.report import write_report
from scoresde.report.columns import Measure
from scoresde.report.information_grid import (
    divergence_columns,
    has_information,
    information_curves,
    information_measures,
    information_notes,
)
from scoresde.report.reading import RunText, read_run
from scoresde.report.traces import Series

SIZE, SCALE = 64, -1 / (64 * math.log(2))
EDGES = [-4.0, 0.0, 2.0]


def nats(run: int, count: int = 40) -> list[float]:
    """Log-densities, much of whose scatter is that of the samples."""
    noise = torch.Generator().manual_seed(5)
    shared = torch.randn(count, generator=noise) * 9 - 85 + 0.3 * torch.randn(count, generator=noise)
    own = torch.randn(count, generator=torch.Generator().manual_seed(run))
    return (shared + 0.3 * own - 2 * run).tolist()


def curve(low: float, high: float) -> dict[str, Any]:
    return {"mean": [low, high], "stderr": [0.1, None]}


def note_of(run: int) -> dict[str, Any]:
    values = [SCALE * v for v in nats(run)]
    mean = {"mean": sum(values) / len(values), "stderr": 0.02}
    settings = {"split": "test", "unit": "bits_per_dim", "conditional": False, "data_hash": "a", "seed": 0, "draws": 32}
    return {
        "settings": settings,
        "n": len(values),
        "unit": "bits/dim",
        "size": SIZE,
        "ways": {"ode": mean, "elbo": mean, "immse": mean},
        "agreements": [{"agree": True}, {"agree": run == 0}, {"agree": None}],
        "curve": {"log_snr": EDGES, "excess": curve(-1.0, -8.0 + run)},
        "training": {"gap": {"mean": 0.02 * (run + 1), "stderr": 0.01}, "curve": {"log_snr": EDGES, **curve(0.1, 0.4)}},
        "typicality": {"untypical": 3},
        "dimension": {"mean": 50.25, "stderr": 0.5},
    }


def write_run(place: Path, run: int, seed: int = 0, note: dict[str, Any] | None = None) -> RunText:
    place.mkdir(parents=True)
    config = {
        "data": {"_target_": "scoresde.data.digits"},
        "network": {"width": 16 * (run + 1)},
        "training": {"seed": seed},
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    (place / "summary.json").write_text(json.dumps({"name": place.name}))
    if note is not None:
        (place / "information-test.json").write_text(json.dumps(note))
        with (place / "information-test.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["index", "ode", "immse"])
            lines.writerows([i, 0.0, v] for i, v in enumerate(nats(run)))
    return read_run(place)


@pytest.fixture
def runs(tmp_path: Path) -> list[RunText]:
    return [*(write_run(tmp_path / f"r{i}", i, note=note_of(i)) for i in (0, 1)), write_run(tmp_path / "r2", 2)]


def by_title(runs: list[RunText]) -> dict[str, Measure]:
    return {measure.title: measure for measure in information_measures(runs)}


def test_what_runs_have_is_a_measure(runs: list[RunText]) -> None:
    assert [has_information(run) for run in runs] == [True, True, False]
    found = by_title(runs)
    assert list(found) == [
        "ODE, bits/dim ↓", "ELBO, bits/dim ↓", "I-MMSE, bits/dim ↓", "held out less training, bits/dim",
        "ways that differ", "local dimension", "untypical", "n",
    ]  # fmt: skip
    shown = {}
    for title, measure in found.items():
        value = measure.read(runs[1])
        assert value is not None
        shown[title] = measure.show(value)
        assert measure.read(runs[2]) is None
    assert shown["held out less training, bits/dim"] == "0.040 ± 0.010"
    assert (shown["ways that differ"], shown["untypical"], shown["n"]) == ("1", "3", "40")
    assert found["ODE, bits/dim ↓"].better == -1
    assert found["local dimension"].better == 0


def test_runs_are_compared_by_pairs_of_the_same_noise(runs: list[RunText], tmp_path: Path) -> None:
    pair = by_title(runs)["I-MMSE, bits/dim ↓"].pair
    difference = pair(runs[0], runs[1])
    assert isinstance(difference, PairedDifference)
    values = torch.tensor([nats(0), nats(1)], dtype=torch.float64) * SCALE
    each = values[1] - values[0]
    assert difference.mean == pytest.approx(float(each.mean()))
    assert difference.stderr == pytest.approx(float(each.std()) / math.sqrt(len(each)))
    assert difference.stderr < 0.2 * float(values[0].std()) / math.sqrt(len(each))
    other = note_of(1)
    other["settings"]["seed"] = 3  # other noise
    assert pair(runs[0], write_run(tmp_path / "seed", 1, note=other)) is None
    short = write_run(tmp_path / "short", 1, note=note_of(1))
    (short.directory / "information-test.csv").write_text("index,ode,immse\n0,0,-80.0\n1,0,oops\n")
    assert pair(runs[0], short) is None


def test_units_and_conditions_have_columns_of_their_own(tmp_path: Path) -> None:
    given = note_of(1)
    given["settings"]["conditional"] = True
    continuous = {**note_of(0), "unit": "nats"}
    made = [write_run(tmp_path / f"r{i}", i, note=note) for i, note in enumerate((note_of(0), given, continuous))]
    found = by_title(made)
    titles = [title for title in found if title.startswith("ODE")]
    assert titles == ["ODE, bits/dim ↓", "ODE, bits/dim given the label ↓", "ODE, nats ↑"]
    assert [[found[title].read(run) is not None for run in made] for title in titles] == [
        [place == row for place in range(3)] for row in range(3)
    ]
    assert found["ODE, nats ↑"].better == 1


def test_curves_have_a_name_and_a_sign(runs: list[RunText]) -> None:
    charts = information_curves([Series(f"run {i}", i) for i in range(3)], runs)
    known, overfitting, labels = charts
    assert known is not None
    assert overfitting is not None
    assert labels is None
    assert [trace["name"] for trace in known.traces] == ["run 0", "run 1"]
    # From data, at small noise, to the right.
    assert (known.traces[0]["x"], known.traces[0]["y"]) == ([-1.0, 2.0], [8.0, 1.0])
    assert overfitting.traces[1]["y"] == [0.4, 0.1]
    assert information_curves([Series("", 0)], runs[2:]) == [None, None, None]


def test_notes_tell_what_keeps_numbers_apart(runs: list[RunText], tmp_path: Path) -> None:
    assert information_notes(runs) == []
    other = note_of(1) | {"worse_than_no_prediction": {"error": 65.0, "low": 6.0, "high": 6.9}}
    other["settings"]["draws"] = 8
    alike, worse = information_notes([runs[0], write_run(tmp_path / "other", 1, note=other)])
    assert alike == "Information here was not computed alike (draws: 32, 8)."
    assert worse.startswith("At some noise levels the network of run 2 errs more than no prediction")


def test_divergences_name_runs_as_the_page_does(runs: list[RunText]) -> None:
    against = {
        "settings": {"split": "test"},
        "other": "r1",
        "unit": "bits/dim",
        "n": 40,
        "costs_more": {"mean": 0.06, "stderr": 0.008},
        "divergence": {"by_scores": {"mean": 6.3, "stderr": 0.2}, "by_errors": {"mean": None}, "samples": 32},
    }
    runs[0].against["information-against-r1-test.json"] = against
    runs[0].against["information-against-gone-test.json"] = {**against, "other": "gone", "divergence": "?"}
    columns, places = divergence_columns(runs, ["1. A", "2. B", "3. C"])
    assert places == [0, 0]
    assert [[cell.text for cell in column.cells] for column in columns] == [
        ["1. A", "1. A"], ["2. B", "gone"], ["0.060 ± 0.008", "0.060 ± 0.008"], ["40", "40"],
        ["6.3 ± 0.2", "–"], ["–", "–"], ["32", "–"],
    ]  # fmt: skip
    assert divergence_columns(runs[1:], ["2. B", "3. C"])[1] == []


def test_the_page_of_a_sweep_has_information_where_a_run_has(tmp_path: Path) -> None:
    for run, seed in ((0, 0), (0, 1), (1, 0)):
        write_run(tmp_path / "some" / f"r{run}{seed}", run, seed, note_of(run))
    write_run(tmp_path / "some" / "bare", 2)
    page = write_report(tmp_path / "some").read_text()
    assert "<h3>Information, averages over training seeds</h3>" in page
    assert page.count("<h3>Information of each run</h3>") == 1
    assert "Divergences between runs" not in page
    assert "Known by noise level" in page
    write_run(tmp_path / "none" / "a", 0)
    write_run(tmp_path / "none" / "b", 1)
    assert "scoresde information" not in write_report(tmp_path / "none").read_text()


@pytest.mark.parametrize("broken", [[], "text", {"ways": 3}, {"ways": {"ode": [1]}, "agreements": 5, "n": "x"}])
def test_files_of_another_form_leave_the_page_whole(tmp_path: Path, broken: Any) -> None:
    write_run(tmp_path / "a", 0, note=note_of(0))
    write_run(tmp_path / "b", 1)
    (tmp_path / "b" / "information-test.json").write_text(json.dumps(broken))
    assert "Information of each run" in write_report(tmp_path).read_text()
