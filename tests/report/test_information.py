"""Information of a run in its report: the tables and the charts."""

import copy
from pathlib import Path
from typing import Any

import pytest

from scoresde.report.information import FIGURES, against_table, information_charts, information_table
from scoresde.report.png import Picture, from_png

NOTE: dict[str, Any] = {
    "settings": {"conditional": True},
    "n": 96,
    "unit": "bits/dim",
    "size": 64,
    "ways": {
        "ode": {"mean": 1.925, "stderr": 0.021},
        "elbo": {"mean": 1.915, "stderr": 0.025},
        "immse": {"mean": 1.919, "stderr": 0.025},
    },
    "agreements": [
        {"first": "ode", "second": "elbo", "mean": -0.01, "stderr": 0.009, "agree": True, "verdict": "they agree"},
        {"first": "ode", "second": "immse", "mean": 0.5, "stderr": 0.01, "agree": False, "verdict": "they differ"},
    ],
    "entropy": {"mean": 85.4, "stderr": 0.94},
    "normal": {"mean": 2.9, "stderr": 0.03},
    "tail": {"mean": 0.0004, "stderr": 0.0001},
    "worse_than_no_prediction": {"error": 66.26, "low": 6.6, "high": 6.9},
    "curve": {
        "log_snr": [-4.0, 0.0, 2.0],
        "error": {"mean": [1.0, 30.0], "stderr": [0.1, 0.5]},
        "normal": {"mean": [1.5, 40.0], "stderr": [0.1, None]},
    },
    "typicality": {"std": 9.2, "untypical": 1},
    "training": {
        "gap": {"mean": 0.017, "stderr": 0.033},
        "curve": {"log_snr": [-4.0, 0.0, 2.0], "mean": [0.1, -0.2], "stderr": [0.1, 0.1]},
    },
    "labels": {
        "nats": {"mean": 5.38, "stderr": 0.22},
        "bits": {"mean": 7.77, "stderr": 0.31},
        "entropy_of_labels": 2.26,
        "above_entropy": True,
        "curve": {"log_snr": [-4.0, 0.0, 2.0], "mean": [0.4, 2.0], "stderr": [0.01, 0.1]},
    },
    "classes": {"n": 64, "nats": {"mean": 2.31, "stderr": 0.005}, "accuracy": {"mean": 1.0, "stderr": 0.0}},
    "dimension": {"mean": 50.0, "stderr": 0.5, "n": 24, "log_snr": 2.97},
}


def rows(note: dict[str, Any]) -> dict[str, str]:
    table = information_table(note)
    assert table is not None
    return {row[0]: row[1] for row in table.rows}


def test_further_files_have_a_column_each() -> None:
    few = {"settings": {"split": "test", "conditional": True}, "unit": "bits/dim", "n": 8, "ways": NOTE["ways"]}
    train = {**copy.deepcopy(few), "n": 40, "dimension": {"mean": 9.0, "stderr": 0.5, "n": 4, "log_snr": 1.0}}
    train["settings"]["split"] = "train"
    long = "train-Hutchinson_probes_2_kind_rademacher-tol0.1-4a830e34"
    table = information_table(NOTE, {"test-few": few, "train": train, long: train, "other": {"n": 3}})
    assert table is not None
    assert table.head == ("", "held out", "held out, few", "training data", "training data, Hutchinson_p…0.1-4a830e34")
    found = {row[0]: row[1:] for row in table.rows}
    assert found["samples, n"] == ("96", "8", "40", "40")
    assert found["entropy under the model given the label, nats"] == ("85.4 ± 0.9", "–", "–", "–")
    assert found["local intrinsic dimension at log(α/σ) = 1"][:2] == ("–", "–")
    assert table.rows[-1][0] == "samples, n"
    alone = information_table({}, {"train": train})
    assert alone is not None
    assert alone.head == ("", "training data")
    assert alone.note == "The density in three ways."


def test_results_stand_in_the_table() -> None:
    found = rows(NOTE)
    assert found["probability-flow ODE, bits/dim given the label"] == "1.93 ± 0.02"
    assert found["I-MMSE less ODE, bits/dim"].endswith("do not agree")
    assert found["ELBO less ODE, bits/dim"].endswith(", agree")
    assert found["worse than no prediction of the noise, log(α/σ) from 6.6 to 6.9"] == "66.26 against 64"
    assert found["entropy of the labels, nats"] == "2.26, which is less: badly trained without"
    assert found["information of the labels by predictions for every class, nats"] == "2.310 ± 0.005, n = 64"
    assert found["local intrinsic dimension at log(α/σ) = 2.97"] == "50.0 ± 0.5 of 64, n = 24"
    table = information_table(NOTE)
    assert table is not None
    assert table.note.endswith("They do not agree: they differ.")
    agreeing = copy.deepcopy(NOTE)
    del agreeing["agreements"][1]
    table = information_table(agreeing)
    assert table is not None
    assert "they agree within three of them and the solver's error" in table.note
    assert information_table({"settings": {}}) is None
    # One sample does not tell.
    agreeing["agreements"] = [{**agreeing["agreements"][0], "stderr": None, "agree": None}]
    assert rows(agreeing)["ELBO less ODE, bits/dim"] == "-0.01"
    table = information_table(agreeing)
    assert table is not None
    assert table.note == "The density in three ways."


def test_curves_run_from_data_to_noise() -> None:
    charts = information_charts(NOTE, {})
    assert [chart.title for chart in charts] == ["Information by noise level", "Where information differs"]
    model, normal = charts[0].traces
    assert model["x"] == [-1.0, 2.0]
    assert model["y"] == [30.0, 1.0]
    assert model["error_y"]["array"] == [0.5, 0.1]
    assert normal["error_y"]["array"] == [0.0, 0.1]
    assert [trace["name"] for trace in charts[1].traces] == [
        "held-out data cost more than training data",
        "labels save",
    ]
    alone = information_charts({key: value for key, value in NOTE.items() if key != "labels"}, {})[1]
    assert alone.caption.startswith("Held-out data cost more than training data: nats of ")


def test_figures_are_for_readers_without_scripts(tmp_path: Path) -> None:
    from scoresde import plots

    png = plots.to_png(plots.learning_curves([0.0, 1.0], {"a": [1.0, 2.0]}))
    pictures: dict[str, Picture] = {file: from_png(png, file, "") for file in FIGURES}
    assert [chart.fallback for chart in information_charts(NOTE, pictures)] == list(pictures.values())


@pytest.mark.parametrize("broken", [{"mean": [1.0]}, {"mean": [1.0, 2.0], "stderr": 3}, {"mean": ["a", None]}, 5])
def test_curves_that_do_not_fit_are_left_out(broken: Any) -> None:
    note = {**NOTE, "curve": {"log_snr": [0, 1, 2], "error": broken, "normal": broken}}
    assert [chart.title for chart in information_charts(note, {})] == ["Where information differs"]


def test_other_runs_have_a_row_each() -> None:
    other = {
        "other": "b",
        "unit": "bits/dim",
        "n": 64,
        "step": 1400,
        "costs_more": {"mean": -0.115, "stderr": 0.008},
        "divergence": {
            "samples": 32,
            "by_scores": {"mean": 8.5, "stderr": 0.4},
            "by_errors": {"mean": 1.2, "stderr": 0.5},
        },
    }
    table = against_table({"x": other, "y": {}, "z": {"costs_more": 3}})
    assert table is not None
    assert table.rows[0] == ("b", "-0.115 ± 0.008 bits/dim", "64", "8.5 ± 0.4", "1.2 ± 0.5", "32")
    assert len(table.rows) == 2
    # Results of earlier weights, and of other settings, are told apart by their files.
    named = {**other, "other": "runs/b", "settings": {"split": "test"}}
    files = [f"information-against-runs_b-test{end}.json" for end in ("", "-step20", "-seed1")]
    table = against_table(dict.fromkeys(files, named))
    assert table is not None
    assert [row[0] for row in table.rows] == ["runs/b", "runs/b, step20", "runs/b, seed1"]
    assert against_table({}) is None
