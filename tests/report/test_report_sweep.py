import json
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from scoresde import plots
from scoresde.report import write_report
from scoresde.report.charts import error_budget, learning_curves, loss_by_noise_level
from scoresde.report.columns import best
from scoresde.report.frontiers import Palette, frontiers
from scoresde.report.numbers import Value, combine
from scoresde.report.reading import read_run
from scoresde.report.traces import COLOURS, Series, axis

# The parser of the page of one run, and what must hold for any page.
from tests.report.test_report import LIKELIHOOD, METRICS, Page, check_it_needs_nothing_else

EVIL = "</script><script>alert(1)</script><a href='javascript:alert(1)'>\"'"


@cache
def png() -> bytes:
    return plots.to_png(plots.image_grid(np.zeros((1, 1, 4, 4))))


def make_run(
    path: Path,
    seed: int = 0,
    lr: float = 1e-3,
    bits: float | None = 2.0,
    stderr: float = 0.02,
    data: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    path.mkdir(parents=True)
    config = {
        "data": data or {"_target_": "scoresde.data.digits"},
        "sde": {"_target_": "scoresde.sde.VPSDE", "beta_max": 20.0},
        "network": {"_target_": "scoresde.networks.UNet", "multipliers": [1, 2]},
        "optimizer": {"lr": lr},
        "training": {"seed": seed, "steps": 100},
        **settings,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    summary: dict[str, Any] = {
        "name": path.name,
        "parameters": 1000 + seed,
        "training": {"steps": 100, "seconds": 100.0 + seed, "loss": 0.5},
        "samples": {"n": 360, "metrics": METRICS},
    }
    if bits is not None:
        parts = {"stderr_data": 0.9 * stderr, "stderr_probes": 0.1 * stderr, "stderr_solver": 1e-3}
        summary["likelihood"] = {**LIKELIHOOD, "bits_per_dim": bits, "stderr": stderr, **parts}
    (path / "summary.json").write_text(json.dumps(summary))
    noise = {"log_snr": [-1.0, 0.0, 1.0], "loss_by_log_snr": [0.9, 0.5, None]}
    lines = [{"step": s, "loss": 1 / s, **noise} for s in range(10, 110, 10)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "samples").mkdir()
    for name in ("samples", "trajectory", "other"):
        (path / "samples" / f"{name}.png").write_bytes(png())
    return path


def job(sweep: Path, number: int, status: str = "finished", run: str | None = None, **entries: Any) -> None:
    (sweep / "jobs").mkdir(parents=True, exist_ok=True)
    entry = {"number": number, "overrides": [f"a={number}"], "status": status, "run": run, "error": None, "log": None}
    (sweep / "jobs" / f"{number:03d}.json").write_text(json.dumps({**entry, **entries}))


def columns(page: Page, heading: str) -> dict[str, list[str]]:
    """Cells by heading of the first table that has this one."""
    head, *rows = next(table for table in page.tables if heading in table[0])
    return {title: [row[i] for row in rows] for i, title in enumerate(head)}


def traces(page: Page) -> list[list[dict[str, Any]]]:
    (data,) = [text for kind, text in page.scripts if kind == "application/json"]
    return [chart["traces"] for chart in json.loads(data)]


def learning(page: Page) -> list[list[dict[str, Any]]]:
    """The traces of the charts of learning curves, one for each data set."""
    return [chart for chart in traces(page) if chart[0]["x"] == list(range(10, 110, 10))]


def test_a_folder_of_runs_becomes_one_page(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "run10", lr=1e-3, bits=2.5)
    make_run(tmp_path / "a" / "run9", lr=1e-2, bits=2.125)
    make_run(tmp_path / "a" / "run9" / "inside", lr=5.0)
    make_run(tmp_path / ".hidden" / "run", lr=6.0)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    page = Page(path)
    check_it_needs_nothing_else(page)
    table = columns(page, "run")
    assert table["run"] == ["run9", "run10"]
    assert table["lr"] == ["0.01", "0.001"]
    assert table["bits/dim ↓"] == ["2.12 ± 0.02", "2.50 ± 0.02"]
    assert table["Fréchet distance ↓"] == ["1.8 ± 0.4"] * 2
    assert table["training"] == ["100 s"] * 2
    assert table["parameters"] == ["1\u202f000"] * 2
    assert "seed" not in table  # only what differs
    assert "Averages" not in page.text
    # Samples of each, the better first, and nothing else.
    assert page.values("img", "alt") == ["Samples of 1. lr=0.01", "Samples of 2. lr=0.001"]
    anchors = page.values("details", "id")
    assert page.values("a", "href") == [f"#{anchor}" for anchor in anchors]
    assert len(set(anchors)) == 2
    (curves,) = learning(page)
    assert [t["name"] for t in curves] == ["1. lr=0.01", "2. lr=0.001"]
    assert curves[0]["x"] == list(range(10, 110, 10))
    assert [t["tone"] for t in curves] == [0, 1]


def test_only_settings_that_differ_have_columns(tmp_path: Path) -> None:
    make_run(tmp_path / "a", sde={"_target_": "scoresde.sde.VPSDE", "beta_max": 20.0})
    make_run(tmp_path / "b", sde={"_target_": "scoresde.sde.VESDE", "sigma_max": 50.0})
    make_run(tmp_path / "c", sde={"_target_": "scoresde.sde.VPSDE", "beta_max": None}, note="5")
    page = Page(write_report(tmp_path))
    table = columns(page, "run")
    settings = list(table)[1 : list(table).index("bits/dim ↓")]
    assert sorted(settings) == ["beta_max", "note", "sde"]  # VE has no beta_max: that it is VE says so
    assert table["sde"] == ["vp", "ve", "vp"]
    assert table["beta_max"] == ["20.0", "–", "null"]
    assert table["note"] == ["–", "–", "5"]
    # A list that differs is one column, and text that is a number sorts as one.
    assert 'data-n="5.0"' in page.source


def test_seeds_are_repeats_with_the_scatter_as_their_error(tmp_path: Path) -> None:
    for seed, bits in ((0, 2.0), (1, 2.2), (2, 2.7)):
        make_run(tmp_path / f"a{seed}", seed=seed, bits=bits)
    make_run(tmp_path / "b0", seed=0, lr=0.1, bits=3.0, stderr=0.05)
    page = Page(write_report(tmp_path))
    table = columns(page, "runs")
    assert table["runs"] == ["1–3", "4"]
    assert table["seeds"] == ["3", "1"]
    assert table["lr"] == ["0.001", "0.1"]
    # Mean 2.3; deviations -0.3, -0.1 and 0.4: variance 0.26 / 2, standard error √(0.13 / 3) = 0.208.
    assert table["bits/dim ↓"] == ["2.3 ± 0.2", "3.00 ± 0.05 †"]
    assert table["parameters"][0] == "1001.0 ± 0.6"
    assert "One seed only" in page.text
    assert "which they share" in page.text
    # Repeats share a colour.
    (curves,) = learning(page)
    assert [t["tone"] for t in curves] == [0, 0, 0, 1]
    # A legend names repeats once.
    assert [t["name"] for t in curves if t.get("showlegend", True)] == ["lr=0.001", "4. lr=0.1, seed=0"]


def test_copies_of_a_run_are_no_repeats(tmp_path: Path) -> None:
    for name, seed, bits in (("a", 0, 2.0), ("a copy", 0, 9.0), ("b", 1, 3.0)):
        make_run(tmp_path / name, seed=seed, bits=bits)
    page = Page(write_report(tmp_path))
    assert columns(page, "runs")["bits/dim ↓"] == ["2.5 ± 0.5"]
    assert "no repeats" in page.text
    assert len(columns(page, "run")["run"]) == 3


def test_repeats_without_a_value_are_counted(tmp_path: Path) -> None:
    for seed, bits in ((0, 2.0), (1, 3.0), (2, None)):
        make_run(tmp_path / f"a{seed}", seed=seed, bits=bits)
    assert columns(Page(write_report(tmp_path)), "runs")["bits/dim ↓"] == ["2.5 ± 0.5 (2 of 3)"]


def test_combine_is_the_mean_and_the_standard_error_of_the_mean() -> None:
    assert combine([Value(1.0, 9.0), Value(3.0, 9.0)]) == Value(2.0, 1.0, 2)  # s = √2, over √2
    assert combine([Value(1.0, 0.3)]) == Value(1.0, 0.3)
    with pytest.raises(ValueError, match="at least one repeat"):
        combine([])


def test_data_sets_are_kept_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "a", bits=2.0)
    make_run(tmp_path / "b", data={"_target_": "scoresde.data.npz", "path": "x.npz"})
    make_run(tmp_path / "c", data={"_target_": "scoresde.data.npz", "path": "y.npz"})
    make_run(tmp_path / "d", bits=3.0, data={"_target_": "scoresde.data.digits", "n_train": 100})
    page = Page(write_report(tmp_path))
    assert "different data sets" in page.text
    assert "(digits: 2 runs, npz (path=x.npz): 1 run, npz (path=y.npz): 1 run)" in page.text
    heads = [i for i, row in enumerate(page.cells) if row[-1] == "run"]
    assert len(heads) == 3
    names = [[row[-1] for row in page.cells[i + 1 : i + 3]] for i in heads]
    assert names[0] == ["a", "d"]  # less training data, the same held-out data
    assert [n[0] for n in names[1:]] == ["b", "c"]
    assert [len(chart) for chart in learning(page)] == [2, 1, 1]  # of their own runs alone
    make_run(tmp_path / "one" / "e")
    assert "different data sets" not in Page(write_report(tmp_path / "one")).text


def test_evaluations_that_differ_are_told(tmp_path: Path) -> None:
    for name, entries in (("a", {}), ("b", {"dequantisation": "variational"})):
        run = make_run(tmp_path / name, lr=len(name + str(entries)) * 1e-3)
        summary = json.loads((run / "summary.json").read_text())
        summary["likelihood"].update(entries)
        summary["samples"]["n"] = 360 if name == "a" else 50
        (run / "summary.json").write_text(json.dumps(summary))
    text = Page(write_report(tmp_path)).text
    assert "not computed alike (dequantisation: uniform, variational)" in text
    assert "(n: 360, 50)" in text


def test_likelihoods_given_labels_have_a_column_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "a", bits=2.5)
    make_run(tmp_path / "b", bits=2.125, network={"num_classes": 10})
    page = Page(write_report(tmp_path))
    table = columns(page, "run")
    assert table["bits/dim ↓"] == ["2.50 ± 0.02", "–"]
    assert table["bits/dim given the label ↓"] == ["–", "2.12 ± 0.02"]
    assert "of p(x | label), others of p(x)" in page.text
    # Alone they have the one column.
    page = Page(write_report(tmp_path / "b"))
    assert page.numbers[0][0] == "Bits/dim given the label, held out"


def test_continuous_data_are_compared_in_nats(tmp_path: Path) -> None:
    for name, nats in (("a", -1.25), ("b", 0.5)):
        run = make_run(tmp_path / name)
        summary = json.loads((run / "summary.json").read_text())
        summary["likelihood"].update(bits_per_dim=None, nats=nats, stderr=0.03)
        (run / "summary.json").write_text(json.dumps(summary))
    table = columns(Page(write_report(tmp_path)), "run")
    assert table["log-likelihood ↑"] == ["-1.25 ± 0.03", "0.50 ± 0.03"]
    assert "bits/dim ↓" not in table


def test_failed_jobs_stand_at_the_top(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "old")
    sweep = tmp_path / "sweeps" / "s"
    make_run(sweep / "runs" / "new", lr=0.1)
    make_run(sweep / "runs" / "no job's", lr=0.2)
    job(sweep, 0, run="runs/new")
    job(sweep, 1, "skipped", run="../../runs/old")
    job(sweep, 2, "failed", error="optimizer.lr is -1", log="jobs/002.log")
    job(sweep, 3, "interrupted")
    job(sweep, 10, "not started")
    (sweep / "jobs" / "004.json").write_text("{")
    page = Page(write_report(sweep))
    assert columns(page, "run")["run"] == ["new", "old"]
    start = page.cells.index(["job", "status", "overrides", "error", "log"])
    assert page.cells[start + 1 : start + 4] == [
        ["2", "failed", "a=2", "optimizer.lr is -1", "jobs/002.log"],
        ["3", "interrupted", "a=3", "–", "–"],
        ["10", "not started", "a=10", "–", "–"],
    ]
    assert page.text.index("optimizer.lr is -1") < page.text.index("Data: digits")
    assert "1 finished, 1 skipped, 1 failed, 1 interrupted, 1 not started" in page.text
    assert "jobs/004.json cannot be read" in page.text


def test_a_sweep_of_which_every_job_failed(tmp_path: Path) -> None:
    job(tmp_path, 0, "failed", error="no such sampler")
    page = Page(write_report(tmp_path))
    assert "no such sampler" in page.text
    assert "No job left a run directory" in page.text
    assert page.scripts == []


def test_a_job_may_have_several_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", lr=0.1)
    job(tmp_path, 0, run="a", runs=["a", "b"])
    job(tmp_path, 1, run="a")
    assert columns(Page(write_report(tmp_path)), "run")["run"] == ["a", "b"]


@pytest.mark.parametrize("place", ["../other", "/absolute", "missing", "../secret", "link", ".\0"])
def test_a_strangers_sweep_shows_no_other_programs_files(tmp_path: Path, place: str) -> None:
    sweep = tmp_path / "sweep"
    make_run(sweep / "good")
    for folder in ("other", "secret"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.yaml").write_text("password: swordfish\n")
    (sweep / "link").mkdir()
    os.symlink(tmp_path / "secret" / "config.yaml", sweep / "link" / "config.yaml")
    job(sweep, 0, run="good")
    job(sweep, 1, run=place if place != "/absolute" else str(sweep / "good"))
    page = Page(write_report(sweep))
    assert columns(page, "run")["run"] == ["good"]
    assert "swordfish" not in page.source
    assert "is missing, or not one of" in page.text or "link cannot be read" in page.text


def test_nothing_to_report_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no config.yaml, and neither has a folder below it") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "jobs").mkdir()
    with pytest.raises(FileNotFoundError, match="neither has a folder below it"):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_report(tmp_path / "none")


def test_everything_from_runs_and_jobs_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / EVIL.replace("/", "")
    for number, evil in enumerate((EVIL, f"${{x}}{EVIL}")):
        name = f"run {number} {EVIL.replace('/', '')}"
        run = make_run(folder / "runs" / name, data={"_target_": EVIL}, **{EVIL: evil}, other={"key": evil})
        summary = json.loads((run / "summary.json").read_text())
        summary["name"] = evil
        summary["samples"]["metrics"][EVIL] = {"value": 1.0, "stderr": 0.1}
        summary["likelihood"]["decoder"] = evil
        (run / "summary.json").write_text(json.dumps(summary))
        listed = [{"file": "samples/samples.png", "title": EVIL, "caption": EVIL}]
        (run / "pictures.json").write_text(json.dumps(listed))
        (run / "comparison.csv").write_text(
            'sampler,steps,seed,nfe,error,problem\n"' + evil.replace('"', '""') + f'",5,0,5,1.0,\n{EVIL[:9]},5,0,,,x\n'
        )
        job(folder, number, run=f"runs/{name}")
    job(folder, 2, EVIL, overrides=[EVIL], error=EVIL, log=EVIL, seconds=EVIL)
    page = Page(write_report(folder))
    check_it_needs_nothing_else(page)
    assert len(page.scripts) == 3
    assert page.text.count(EVIL) > 10
    for chart in traces(page):
        for trace in chart:
            assert not set("<>") & set(trace["name"] + "".join(trace.get("hovertext", [])))


@pytest.mark.parametrize("value", [10**400, -1, 1e308, float("nan"), True, "\ud800", [], {}, None, "x"])
def test_absurd_values_do_not_stop_the_page(tmp_path: Path, value: Any) -> None:
    for name in ("a", "b"):
        run = make_run(tmp_path / name)
        entry = {
            **dict.fromkeys(LIKELIHOOD, value),
            "stderr_data": value,
            "stderr_solver": value,
            "solver_error": value,
        }
        metric = {"m": dict.fromkeys(("value", "stderr", "n"), value)}
        summary = {
            "name": value,
            "parameters": value,
            "likelihood": entry,
            "training": {"steps": value, "seconds": value, "loss": value},
            "samples": {"n": value, "nfe": value, "metrics": metric},
        }
        (run / "summary.json").write_text(json.dumps(summary))
        line = {"step": 1, "loss": value, "log_snr": [value], "loss_by_log_snr": [value]}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (run / "comparison.csv").write_text(
            f"sampler,steps,nfe,error\ns,{value!r},{value!r},{value!r}\ns,1\n".encode().decode("ascii", "replace")
        )
    assert len(columns(Page(write_report(tmp_path)), "run")["run"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2",
        "- 1\n- 2\n",
        "",
        "a: &a [*a]\n",
        "a: &a\n  b: *a\n",
        "a: " + "[" * 2000,
        "x0: &x0 [1, 1]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]\n" for i in range(1, 12)),
        "a: !!timestamp 2000-99-99\n",
        "a: !!python/object/apply:os.system ['touch hacked']\n",
    ],
)
def test_configurations_that_cannot_be_read_are_no_repeats(tmp_path: Path, text: str) -> None:
    for name in ("a", "b"):
        (make_run(tmp_path / name) / "config.yaml").write_text(text)
    began = time.perf_counter()
    page = Page(write_report(tmp_path))
    assert time.perf_counter() - began < 10
    assert "what differs from other runs is not known" in page.text
    assert "Averages" not in page.text
    assert columns(page, "run")["run"] == ["a", "b"]
    assert not Path("hacked").exists()


def rows(sampler: str, steps: int, errors: Sequence[float], stderr: float = 0.1) -> list[dict[str, Any]]:
    return [
        {
            "sampler": sampler,
            "steps": float(steps),
            "seed": float(i),
            "nfe": steps + 1.0,
            "error": e,
            "error_stderr": stderr,
        }
        for i, e in enumerate(errors)
    ]


def test_frontiers_average_over_seeds_and_colour_the_lowest() -> None:
    comparison = [*rows("b", 10, [3.0]), *rows("b", 5, [4.0, 6.0]), *rows("a", 5, [2.0])]
    for i in range(9):
        comparison += rows(f"worse {i}", 5, [10.0 + i])
    comparison += [{"sampler": "broken", "steps": 5.0, "nfe": None, "error": None, "problem": "diverged"}]
    comparison += [{**rows("early", 1, [50.0])[0], "error_stderr": None}]
    (chart,) = frontiers([Series("run", 0, comparison=comparison)])
    lines = {t["name"]: t for t in chart.traces}
    assert lines["b"]["x"] == [6, 11]
    assert lines["b"]["y"] == [5, 3]
    assert lines["b"]["error_y"]["array"] == [1, 0.1]  # the scatter of two seeds; the row's own error
    # First those that nothing beats at their cost, then by what they reach.
    names = ("a", "early", "b", "worse 3", "worse 4")
    assert [lines[name]["tone"] for name in names] == [0, 1, 2, 6, None]
    assert "Failed: broken at 5 steps" in chart.caption
    assert "Grey" in chart.caption


def test_a_sampler_has_one_colour_in_all_charts_of_a_page() -> None:
    def run(number: int, quality: dict[str, float]) -> Series:
        comparison = rows("a", 5, [1.0]) + rows("b", 5, [2.0]) + rows("c", 5, [3.0])
        comparison = [{**row, "frechet_distance": quality[row["sampler"]]} for row in comparison]
        return Series(f"run {number}", number, comparison=comparison)

    palette = Palette()
    error, frechet = frontiers([run(0, {"a": 3.0, "b": 2.0, "c": 1.0})], palette)
    tones = {t["name"]: t["tone"] for t in error.traces}
    assert sorted(tones.values()) == [0, 1, 2]
    assert {t["name"]: t["tone"] for t in frechet.traces} == tones
    # In another section of the page, and for another run there: the same colour, with another dash.
    both = frontiers([run(0, {"a": 1.0, "b": 9.0, "c": 0.5}), run(1, {"a": 1.0, "b": 9.0, "c": 0.5})], palette)
    for chart in both:
        found = {t["name"]: t["tone"] for t in chart.traces if t["tone"] is not None}
        for name, tone in found.items():
            sampler, _, label = name.partition(", ")
            assert tone == tones[sampler] + COLOURS * (label == "run 1")


def test_charts_take_the_colours_of_the_picture() -> None:
    comparison = rows("a", 5, [1.0]) + rows("b", 5, [2.0]) + rows("c", 5, [3.0])
    (chart,) = frontiers([Series("run", 0, comparison=comparison, coloured=["c", "gone", "b"])])
    assert {t["name"]: t["tone"] for t in chart.traces} == {"c": 0, "b": 2, "a": 3}


def test_comparisons_are_read_from_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "comparison.csv").write_text(
        "sampler,steps,seed,n,nfe,error,error_stderr,frechet_distance,frechet_distance_stderr,problem\n"
        "heun,5,0,360,9,0.25,0.01,1.5,0.2,\ntsit5,,0,360,40.5,nan,,1.25,0.2,\n"
    )
    assert [row["error"] for row in read_run(run).comparison] == [0.25, None]
    page = Page(write_report(run))
    assert "Samplers: error of the endpoint" in page.text
    assert "Samplers: Fréchet distance" in page.text
    assert [t["name"] for t in traces(page)[-1]] == ["heun", "tsit5"]


def test_loss_by_noise_level_is_the_mean_of_the_last_lines() -> None:
    def line(level: float, *losses: float | None) -> dict[str, Any]:
        return {"step": 1, "log_snr": [level, 0.5][: len(losses)], "loss_by_log_snr": list(losses)}

    log = [line(-1.0, 100.0)] + [line(-1.0, 1.0, None)] * 8 + [line(-1.0, 1.0, 4.0), line(-1.0, 11.0, 6.0)]
    chart = loss_by_noise_level([Series("run", 0, log)])
    assert chart is not None
    (trace,) = chart.traces
    assert trace["x"] == [-0.5, 1.0]
    assert trace["y"] == [5.0, 2.0]
    assert trace["error_y"]["array"] == [1.0, 1.0]  # 2 and 10 values: √(2 / 2), √(100 · 0.9 / 9 / 10)
    assert loss_by_noise_level([Series("run", 0, [{"step": 1, "log_snr": 3, "loss_by_log_snr": [1]}])]) is None


def test_error_budget_has_a_bar_for_every_part_that_is_known(tmp_path: Path) -> None:
    entry = {"bits_per_dim": 2.0, "stderr_data": 0.02, "stderr_dequantisation": None, "stderr_probes": 0.0}
    series = [Series(f"{i}. a", 0, summary={"likelihood": entry}, short=str(i)) for i in (1, 2)]
    chart = error_budget(series, "bits/dim")
    assert chart is not None
    assert [(t["name"], t["x"], t["y"]) for t in chart.traces] == [
        ("choice of held-out data", ["1", "2"], [0.02, 0.02]),
        ("probes", ["1", "2"], [0.0, 0.0]),
    ]
    alone = error_budget(series[:1], "bits/dim")
    assert alone is not None
    assert [(t["x"], t["y"]) for t in alone.traces] == [(["choice of held-out data", "probes"], [0.02, 0.0])]
    assert error_budget([Series("a", 0, summary={"likelihood": entry})], "nats") is None


def test_long_curves_are_thinned_by_means() -> None:
    log = [{"step": s, "loss": float(s % 2)} for s in range(2400)]
    chart = learning_curves([Series("run", 0, log)])
    assert chart is not None
    (trace,) = chart.traces
    assert trace["y"] == [0.5] * 600
    assert trace["x"][:2] == [1.5, 5.5]
    assert "averaged" in chart.caption


def test_fifty_runs_take_seconds(tmp_path: Path) -> None:
    for i in range(50):
        make_run(tmp_path / f"r{i}", seed=i % 5, lr=10.0 ** -(i // 5), bits=2 + i / 100)
    began = time.process_time()
    page = Page(write_report(tmp_path))
    assert time.process_time() - began < 10  # about 1 s on an idle core
    assert len(columns(page, "run")["run"]) == 50
    assert len(columns(page, "runs")["runs"]) == 10
    (curves,) = learning(page)
    assert len(curves) == 50
    assert sum(t["showlegend"] for t in curves) == 10


def test_the_main_measures_are_charted_with_whiskers_the_best_first(tmp_path: Path) -> None:
    for name, lr, seed, bits in (("a", 0.1, 0, 2.0), ("b", 0.1, 1, 2.4), ("c", 0.01, 0, 3.0), ("d", 0.001, 0, 1.9)):
        make_run(tmp_path / name, lr=lr, seed=seed, bits=bits, stderr=0.05)
    page = Page(write_report(tmp_path))
    single, means = traces(page)[0]
    assert means["text"] == ["lr=0.001", "lr=0.1", "lr=0.01"]
    assert means["x"] == [1.9, 2.2, 3.0]
    assert means["error_x"]["array"] == [0.05, 0.2, 0.05]
    assert list(zip(single["x"], single["y"], strict=True)) == [(1.9, 0), (2.0, 1), (2.4, 1), (3.0, 2)]
    (data,) = [text for kind, text in page.scripts if kind == "application/json"]
    layout = json.loads(data)[0]["layout"]
    assert layout["yaxis"]["ticktext"] == ["<b>lr=0.001</b>", "lr=0.1", "lr=0.01"]
    assert layout["yaxis"]["range"] == [2.5, -0.5]
    # A rate has three values, so that there is a chart against it, on a logarithmic axis.
    (against,) = traces(page)[1]
    assert list(zip(against["x"], against["y"], strict=True)) == [(0.001, 1.9), (0.01, 3.0), (0.1, 2.2)]
    assert json.loads(data)[1]["layout"]["xaxis"]["type"] == "log"
    assert "4 runs: lr (0.001, 0.01, 0.1), up to 2 training seeds each" in page.text
    assert "Best bits/dim: 1.90 ± 0.05 with lr=0.001; 1 other within two standard errors." in page.text


def test_the_columns_of_the_main_measures_come_first(tmp_path: Path) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        run = make_run(tmp_path / name, lr=lr)
        (run / "data.json").write_text(json.dumps({"shape": [2]}))
    head = list(columns(Page(write_report(tmp_path)), "run"))
    assert head[:4] == ["no.", "lr", "bits/dim ↓", "coverage ↑"]


def test_configurations_that_are_equal_are_counted_without_the_best_itself(tmp_path: Path) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        make_run(tmp_path / name, lr=lr, bits=2.0)
    assert "with lr=0.1; 1 other within two standard errors." in Page(write_report(tmp_path)).text


def test_one_configuration_has_no_ranking(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"{seed}", seed=seed, bits=2.0 + seed)
    page = Page(write_report(tmp_path))
    assert traces(page)[0] == learning(page)[0]
    assert "Best" not in page.text


def test_the_best_is_bold_and_what_is_clearly_worse_is_grey(tmp_path: Path) -> None:
    for name, bits in (("a", 2.0), ("b", 2.05), ("c", 2.2)):
        make_run(tmp_path / name, lr=bits, bits=bits, stderr=0.03)
    source = Page(write_report(tmp_path)).source
    assert "<strong>2.00 ± 0.03</strong>" in source
    assert '<td data-n="2.05">2.05 ± 0.03</td>' in source  # 0.05 apart, standard error √2 · 0.03
    assert '<span class="muted">2.20 ± 0.03</span>' in source


@pytest.mark.parametrize(("better", "marks"), [(1, ["", "best", "worse", ""]), (-1, ["worse", "worse", "best", ""])])
def test_marks_follow_the_direction(better: int, marks: list[str]) -> None:
    values = [Value(0.9, 0.1), Value(1.0, 0.1), Value(0.5, 0.1), None]
    assert best(values, better) == marks


def add_samples(run: Path, values: Sequence[float], **settings: Any) -> None:
    """The table of the run's held-out likelihoods, and the note beside it."""
    shared = {"split": "test", "unit": "bits_per_dim", "data_hash": "0a", "seed": 0, **settings}
    (run / "likelihood-test.json").write_text(json.dumps({"settings": shared}))
    lines = ["index,bits_per_dim,stderr", *(f"{i},{value},0.01" for i, value in enumerate(values))]
    (run / "likelihood-test.csv").write_text("\n".join(lines) + "\n")
    summary = json.loads((run / "summary.json").read_text())
    summary["likelihood"]["n"] = len(values)
    (run / "summary.json").write_text(json.dumps(summary))


def in_pairs(path: Path, **settings: Any) -> Page:
    """A sweep of three runs whose samples scatter ten times as much as they differ by."""
    common = np.random.default_rng(0).normal(0.0, 0.3, 100)
    common += 2.0 - common.mean()
    noise = np.random.default_rng(1).normal(0.0, 0.03, (3, 100))
    for k, (name, shift) in enumerate((("a", 0.0), ("b", 0.02), ("c", 0.001))):
        values = common + shift + noise[k] - noise[k].mean()
        run = make_run(path / name, lr=k + 1, bits=float(values.mean()), stderr=0.03)
        add_samples(run, values.tolist(), **(settings if name == "b" else {}))
    return Page(write_report(path))


def test_runs_with_the_same_samples_are_compared_in_pairs(tmp_path: Path) -> None:
    page = in_pairs(tmp_path)
    # Differences of 0.02 and 0.001, with errors of √2 · 0.03 / √100.
    assert columns(page, "run")["bits/dim from the best"] == ["–", "0.020 ± 0.004", "0.001 ± 0.004"]
    assert "2.02 ± 0.03</span>" in page.source
    assert "1 other within two standard errors. On the same 100 samples lr=1 and lr=3 cannot be told apart" in page.text
    (tmp_path / "c" / "summary.json").unlink()
    assert "On the same 100 samples lr=1 is better than lr=2 by 0.02" in Page(write_report(tmp_path)).text


@pytest.mark.parametrize("setting", [{"seed": 1}, {"data_hash": "0b"}, {"unit": "nats"}, {"draws": 4}, {"model": "f"}])
def test_samples_of_other_settings_are_no_pairs(tmp_path: Path, setting: dict[str, Any]) -> None:
    page = in_pairs(tmp_path, **setting)
    assert columns(page, "run")["bits/dim from the best"] == ["–", "–", "0.001 ± 0.004"]
    assert "2.02 ± 0.03</span>" not in page.source  # its interval overlaps


def test_damaged_samples_are_no_pairs(tmp_path: Path) -> None:
    in_pairs(tmp_path)
    table = tmp_path / "b" / "likelihood-test.csv"
    table.write_text(table.read_text().replace("\n1,", "\n7,"))  # one row is left
    (tmp_path / "c" / "likelihood-test.csv").write_bytes(b"\xff\x00")
    page = Page(write_report(tmp_path))
    assert "bits/dim from the best" not in columns(page, "run")
    assert "On the same" not in page.text


def test_no_direction_no_difference_and_no_error_mean_no_marks() -> None:
    assert best([Value(1.0, 0.1), Value(2.0, 0.1)], 0) == ["", ""]
    assert best([Value(1.0, 0.1), Value(1.0, 0.1)], -1) == ["", ""]
    assert best([Value(1.0), Value(2.0, 0.1)], -1) == ["best", ""]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.6, 45.0), ["1", "2", "5", "10", "20"]),
        ((2e-5, 2.0), ["10⁻⁴", "0.001", "0.01", "0.1", "1"]),
        ((1e-20, 1.0), ["10⁻¹⁸", "10⁻¹⁵", "10⁻¹²", "10⁻⁹", "10⁻⁶", "0.001", "1"]),
        ((1e4, 4e5), ["10⁴", "2·10⁴", "5·10⁴", "10⁵", "2·10⁵"]),
    ],
)
def test_logarithmic_axes_have_ticks_that_can_be_read(values: tuple[float, float], ticks: list[str]) -> None:
    made = axis("", values)
    assert made["type"] == "log"
    shown = [t for v, t in zip(made["tickvals"], made["ticktext"], strict=True) if values[0] <= v <= values[1]]
    assert shown == ticks
    assert min(made["tickvals"]) < values[0]
    assert max(made["tickvals"]) > values[1]


def test_a_choice_with_another_setting_is_told_by_both(tmp_path: Path) -> None:
    make_run(tmp_path / "a", sde={"_target_": "scoresde.sde.VPSDE", "beta_min": 0.1, "beta_max": 20.0})
    make_run(tmp_path / "b", sde={"_target_": "scoresde.sde.VESDE", "sigma_min": 0.01, "sigma_max": 50.0})
    make_run(tmp_path / "c", sde={"_target_": "scoresde.sde.VESDE", "sigma_min": 0.01, "sigma_max": 9.0})
    table = columns(Page(write_report(tmp_path)), "run")
    assert table["sde"] == ["vp", "ve", "ve"]
    assert table["sigma_max"] == ["–", "50.0", "9.0"]
    assert "sigma_min" not in table
    assert "beta_max" not in table


def test_samples_of_configurations_stand_beside_data_the_best_first_and_many_are_folded(tmp_path: Path) -> None:
    for number in range(14):
        run = make_run(tmp_path / f"r{number:02}", lr=number / 10, bits=3 - number / 10)
        for name in ("beside-data", "beside-samples"):
            (run / "samples" / f"{name}.png").write_bytes(png())
    page = Page(write_report(tmp_path))
    best_first = [f"Samples of {n + 1}. lr={n / 10}" for n in range(13, -1, -1)]
    assert page.values("img", "alt") == ["Held-out data", *best_first]
    assert "3 more configurations" in page.text
