import base64
import gzip
import hashlib
import html
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoresde import plots
from scoresde.report import write_report

pytestmark = pytest.mark.slow  # writes pages of megabytes

VOID = {"meta", "img", "br", "hr", "link", "input"}

LIKELIHOOD = {
    "split": "test",
    "bits_per_dim": 2.3214,
    "nats": -102.98,
    "stderr": 0.0183,
    "n": 360,
    "nfe": 78.25,
    "seconds": 41.2,
    "dequantisation": "uniform",
    "divergence": "Hutchinson(probes=1)",
    "t_min": 1e-5,
    "tol": 6.4e-3,
}
METRICS = {
    "frechet_distance": {"value": 1.834, "stderr": 0.41, "n": 360},
    "coverage": {"value": 0.9, "stderr": 0.013, "n": 360},
}
SUMMARY = {
    "name": "digits-vp",
    "parameters": 1843201,
    "training": {"steps": 20000, "seconds": 1423.7, "skipped": 3, "loss": 0.1384},
    "likelihood": LIKELIHOOD,
    "likelihood_train": {**LIKELIHOOD, "split": "train", "bits_per_dim": 2.1876, "nats": -97.05, "n": 1437},
    "samples": {"n": 360, "nfe": 35, "seconds": 8.31, "sampler": "Heun(churn=0.0)", "metrics": METRICS},
    "reference": {"frechet_distance": {"value": 0.7, "stderr": 0.21, "n": 360}},
}


class Page(HTMLParser):
    """Every tag closed in order; attributes, text and table cells collected."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[list[str]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.style = ""
        self.scripts: list[tuple[str, str]] = []
        self.numbers: list[list[str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.cells.append([])
            self.tables[-1].append(self.cells[-1])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "dt":
            self.numbers.append([])
        if tag in ("dt", "dd"):
            self.numbers[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
            return
        if "script" in self.open:
            kind, before = self.scripts[-1]
            self.scripts[-1] = (kind, before + data)
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data
        if {"dt", "dd"} & set(self.open):
            self.numbers[-1][-1] += data

    def values(self, tag: str, key: str) -> list[str]:
        return [v for t, k, v in self.attributes if (t, k) == (tag, key)]

    def row(self, heading: str) -> list[str]:
        (row,) = [r for r in self.cells if r[0] == heading]
        return row[1:]


def _picture(path: Path) -> bytes:
    plots.save(plots.image_grid(np.zeros((1, 1, 4, 4))), path)
    return path.read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.yaml").write_text("sde:\n  _target_: scoresde.sde.VPSDE\n  beta_max: 20.0\n")
    return directory


@pytest.fixture
def full(run: Path) -> Path:
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    lines: list[dict[str, Any]] = [{"step": s, "loss": 1 / s, "lr": 1e-3} for s in range(10, 210, 10)]
    lines.append({"event": "evaluation", "step": 200, "loss": 7.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("a", "b"):
        _picture(run / "samples" / f"{name}.png")
    listed = [
        {"file": "samples/b.png", "title": "Second", "caption": "b & <b>"},
        {"file": "samples/a.png", "title": "First", "caption": ""},
    ]
    (run / "pictures.json").write_text(json.dumps(listed))
    return run


def test_numbers_stand_in_the_tables_with_their_errors(full: Path) -> None:
    path = write_report(full)
    assert path == full / "report.html"
    page = Page(path)
    # Two digits of an error that starts with 1, one of others.
    assert page.row("bits/dim") == ["2.321 ± 0.018", "2.188 ± 0.018"]
    # The error of bits/dim, times 102.98 / 2.3214 nats per bit/dim: 0.81.
    assert page.row("log-likelihood, nats")[0] == "-103.0 ± 0.8"
    assert page.row("samples, n") == ["360", "1\u202f437"]
    assert page.row("dequantisation") == ["uniform", "uniform"]
    assert page.row("NFE, mean")[0] == "78.25"
    assert page.row("Fréchet distance ↓") == ["1.8 ± 0.4", "0.7 ± 0.2", "360"]
    assert page.row("coverage ↑") == ["0.900 ± 0.013", "–", "360"]
    assert page.row("steps") == ["20\u202f000"]
    assert page.row("steps skipped, loss not finite") == ["3"]
    assert page.row("steps per second") == ["14.05"]
    assert page.row("parameters") == ["1\u202f843\u202f201"]
    assert "24 min" in page.text
    assert "heun, churn 0.0" in page.text
    assert "Heun(" not in page.text
    assert page.values("meta", "name") == ["viewport", "color-scheme"]
    assert "prefers-color-scheme: dark" in page.style


def test_the_four_numbers_stand_at_the_top(full: Path) -> None:
    (full / "data.json").write_text(json.dumps({"shape": [1, 8, 8], "transform": {"levels": 17}}))
    page = Page(write_report(full))
    assert page.numbers == [
        [
            "Bits/dim, held out",
            "2.321 ± 0.018",
            "lower is better; n = 360",
            "training data: 2.188 ± 0.018",
            "uniform noise: 4.087",
        ],
        ["Fréchet distance", "1.8 ± 0.4", "lower is better; n = 360", "training data: 0.7 ± 0.2"],
        ["Evaluations per sample", "35", "sampler heun, churn 0.0", "8.31 s for 360 samples"],
        ["Training", "24 min", "20\u202f000 steps", "14.05 steps a second"],
    ]


def test_the_top_says_what_was_trained_and_shows_samples_beside_data(run: Path) -> None:
    leaves = {
        "sde": {"_target_": "scoresde.sde.VPSDE", "beta_min": 0.1, "beta_max": 20.0},
        "network": {"_target_": "mine.Net"},
        "training": {"seed": 3},
    }
    (run / "config.yaml").write_text(json.dumps(leaves))
    training = {"steps": 5, "seconds": 200, "samples": 1437, "date": "2026-11-28T23:05:58+00:00", "version": "0.1.0"}
    summary = {"parameters": 1000, "training": {**training, "device": "a CPU"}}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "data.json").write_text(json.dumps({"name": "digits", "shape": [1, 8, 8]}))
    for name in ("samples", "beside-data", "beside-samples"):
        _picture(run / "samples" / f"{name}.png")
    listed = [
        {"file": "samples/samples.png", "title": "Samples", "caption": "9 by Sampler(Mine(a=1), Grid(steps=7)), 9"}
    ]
    for name in ("beside-data", "beside-samples"):
        listed.append({"file": f"samples/{name}.png", "title": name, "kind": "pixels", "columns": ["cat", "dog"]})  # type: ignore[dict-item]
    (run / "pictures.json").write_text(json.dumps(listed))
    page = Page(write_report(run))
    told = (
        "Score-based model of digits, 1\u202f437 grey images of 8×8 pixels: SDE vp, network Net of 1\u202f000 "
        "parameters, trained with seed 3 in 3 min on 28 November 2026 by scoresde 0.1.0 on a CPU."
    )
    assert told in page.text
    assert page.values("img", "alt")[:2] == ["beside-data", "beside-samples"]
    assert page.text.index(told) < page.text.index("cat") < page.text.index("What the model does")
    assert "9 by mine, 7 steps, 9" in page.text  # a caption of an older version
    assert "Sampler(" not in page.text


@pytest.mark.parametrize(("shape", "headline"), [([2], "Coverage of held-out data"), ([17], "Fréchet distance")])
def test_few_dimensions_are_judged_by_where_samples_lie(full: Path, shape: list[int], headline: str) -> None:
    (full / "data.json").write_text(json.dumps({"shape": shape, "transform": {}}))
    assert Page(write_report(full)).numbers[1][0] == headline


def test_what_exact_samples_have_stands_beside_measures_of_coverage(full: Path) -> None:
    coverage = {
        "modes_covered": {"value": 0.8, "stderr": 0.0, "n": 360, "expected": 1.0},
        "modes_misplaced": {"value": 0.21, "stderr": 0.02, "n": 360, "expected": 0.103},
        "copies": {"value": 0.012, "stderr": 0.006, "n": 360, "expected": 0.0},
    }
    reference = {**SUMMARY["reference"], "modes_covered": {"value": 1.0, "stderr": 0.0, "n": 360}}  # type: ignore[dict-item]
    samples = {**SUMMARY["samples"], "metrics": {**METRICS, **coverage}}  # type: ignore[dict-item]
    (full / "summary.json").write_text(json.dumps({**SUMMARY, "samples": samples, "reference": reference}))
    page = Page(write_report(full))
    head = ["against held-out data", "samples", "training data", "exact samples", "n"]
    (table,) = [table for table in page.tables if table[0] == head]
    assert ["modes covered ↑", "0.8 ± 0", "1 ± 0", "1", "360"] in table
    assert ["samples in the wrong mode ↓", "0.21 ± 0.02", "–", "0.103", "360"] in table
    assert ["copies of training data ↓", "0.012 ± 0.006", "–", "0", "360"] in table
    assert ["Fréchet distance ↓", "1.8 ± 0.4", "0.7 ± 0.2", "–", "360"] in table
    assert "less what chance makes" in page.text


def test_measures_of_earlier_versions_have_no_column_of_exact_samples(full: Path) -> None:
    page = Page(write_report(full))
    assert ["against held-out data", "samples", "training data", "n"] in [table[0] for table in page.tables]
    assert "exact samples" not in page.text


def test_further_results_are_listed_with_their_settings(full: Path) -> None:
    own = {**LIKELIHOOD, "draws": 1, "seed": 0, "step": 20000, "data_hash": "a"}
    further = {
        "likelihood-test-draws4": {**own, "draws": 4, "n": 5, "bits_per_dim": 2.25, "stderr": None},
        "likelihood-train-step100": {**own, "split": "train", "step": 100, "bits_per_dim": 3.5, "stderr": 0.5},
        "likelihood-all-mine-1a": {**own, "split": "all", "data": "mine", "data_hash": "b", "source": "in/mine.npz"},
        "likelihood-test-digits-2b": {**own, "data": "digits", "data_hash": "c"},
        "samples-euler": {"sampler": "Euler", "n": 20, "metrics": METRICS, "data_hash": "a", "step": 20000},
    }
    samples = {**SUMMARY["samples"], "data_hash": "a", "step": 20000}  # type: ignore[dict-item]
    summary = {**SUMMARY, "likelihood": own, "likelihood_train": {**own, "split": "train"}, "samples": samples}
    (full / "summary.json").write_text(json.dumps({**summary, **further}))
    note = {"settings": {"n": 21, "tolerance": 1e-6, "data": "digits"}, "step": 100}
    (full / "comparison-n21.json").write_text(json.dumps(note))
    page = Page(write_report(full))
    (table,) = [table for table in page.tables if table[0] == ["", "value", "n", "of"]]
    assert table[1:] == [
        ["likelihood-test-draws4", "2.25 bits/dim", "5", "draws 4"],
        ["likelihood-train-step100", "3.5 ± 0.5 bits/dim", "360", "step 100"],
        ["likelihood-all-mine-1a", "2.321 ± 0.018 bits/dim", "360", "data in/mine.npz"],
        ["likelihood-test-digits-2b", "2.321 ± 0.018 bits/dim", "360", "data digits of another content"],
        ["samples-euler", "Fréchet distance 1.8 ± 0.4", "20", "sampler Euler, n 20"],
        ["comparison-n21", "comparison-n21.csv", "21", "n 21, tolerance 1e-06, step 100"],
    ]
    # The run's own are what they were.
    assert page.row("bits/dim")[0] == "2.321 ± 0.018"


def test_likelihoods_given_labels_say_so(full: Path) -> None:
    for known in (True, False):
        summary = {**SUMMARY, "likelihood": {**LIKELIHOOD, **({"conditional": True} if known else {})}}
        summary["likelihood-test-draws4"] = summary["likelihood"]
        (full / "summary.json").write_text(json.dumps(summary))
        # Older versions did not say it in the summary.
        (full / "config.yaml").write_text(f"network:\n  num_classes: {'null' if known else 10}\n")
        page = Page(write_report(full))
        assert page.row("bits/dim given the label")[0] == "2.321 ± 0.018"
        assert page.row("log-likelihood given the label, nats")[0] == "-103.0 ± 0.8"
        assert page.row("likelihood-test-draws4")[0] == "2.321 ± 0.018 bits/dim given the label"
        assert page.numbers[0][0] == "Bits/dim given the label, held out"
        assert "of p(x | label), not to be compared with those of p(x)" in page.text
    (full / "config.yaml").write_text("network:\n  num_classes: null\n")
    assert "given the label" not in Page(write_report(full)).text


def test_steps_after_the_figures_are_told(full: Path) -> None:
    assert "Training has since continued" not in Page(write_report(full)).text
    with (full / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20050, "loss": 0.1}) + "\n")
    told = "Training has since continued to step 20050; the model and its figures are of 20000."
    assert told in Page(write_report(full)).text


TUNED = {"format": "scoresde-tuned-2", "error": 0.125, "default": 0.5, "before": 0.6, "starts": 1200}


def test_tuned_steps_stand_beside_the_default(full: Path) -> None:
    (full / "tuned-10.json").write_text(json.dumps({**TUNED, "default": 0.1}))
    (full / "tuned-5.json").write_text(json.dumps(TUNED))
    (full / "tuned-8.json").write_text(json.dumps({"format": "scoresde-tuned-1", "error": 0.25, "starts": 100}))
    (full / "tuned-x.json").write_text("{}")
    page = Page(write_report(full))
    (table,) = [t for t in page.tables if t[0][0] == "evaluations"]
    assert table == [
        ["evaluations", "error ↓, tuned", "error ↓, default", "ratio", "starts"],
        ["5", "0.125", "0.5", "0.25", "1\u202f200"],
        ["8", "0.25", "–", "–", "100"],
        ["10", "0.125", "0.1", "1.25", "1\u202f200"],
    ]
    assert "starts that the search has not seen" in page.text
    lines = ["sampler,nfe,frechet_distance,frechet_distance_stderr,problem"]
    lines += ["tuned,5,1.5,0.25,", "default,5,2.5,0.25,", "default,4,9,1,", "heun,5,7,1,"]
    (full / "comparison.csv").write_text("\n".join(lines) + "\n")
    (table,) = [t for t in Page(write_report(full)).tables if t[0][0] == "evaluations"]
    assert table[0][4:6] == ["Fréchet distance ↓, tuned", "Fréchet distance ↓, default"]
    assert table[1][4:6] == ["1.5 ± 0.2", "2.5 ± 0.2"]
    assert table[3][4:6] == ["–", "–"]


@pytest.mark.parametrize("value", [10**400, -1, 0, "evil", None, [], True, float("nan")])
def test_absurd_tuned_steps_do_not_stop_the_page(run: Path, value: Any) -> None:
    (run / "tuned-5.json").write_text(json.dumps(dict.fromkeys(TUNED, value)))
    (run / "tuned-6.json").write_text(json.dumps(value))
    (run / "tuned-7.json").write_text(json.dumps({**TUNED, "default": value}))
    page = Page(write_report(run))
    assert [row[0] for row in page.tables[0]] == ["evaluations", "5", "7"]


def test_pictures_are_inlined_in_the_listed_order(full: Path) -> None:
    page = Page(write_report(full))
    sources = page.values("img", "src")
    assert len(sources) == 3  # two, and the learning curve
    prefix = "data:image/png;base64,"
    content = [base64.b64decode(s.removeprefix(prefix), validate=True) for s in sources]
    assert content[:2] == [(full / "samples" / f"{name}.png").read_bytes() for name in "ba"]
    assert all(c.startswith(b"\x89PNG") for c in content)
    assert page.values("img", "alt")[:2] == ["Second: b & <b>", "First"]
    assert page.text.index("Second") < page.text.index("First") < page.text.index("Learning curve")


def check_it_needs_nothing_else(page: Page, charts: bool = True) -> None:
    """No address but places in the page and data; no script but those that the policy names by their hashes."""
    for tag, key, value in page.attributes:
        assert key not in ("srcset", "action", "data", "poster")
        assert not key.startswith("on")
        if key == "href":
            assert value.startswith("#")
        if key == "src":
            assert tag == "img"
            assert value.startswith("data:image/png;base64,")
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    assert "url(" not in page.style
    assert "@import" not in page.style
    (policy,) = [v for _, k, v in page.attributes if k == "content" and "default-src" in v]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert rules["default-src"] == ["'none'"]
    assert rules["img-src"] == ["data:", "blob:"][: 1 + charts]
    run = [text for kind, text in page.scripts if kind == ""]
    carried = [text for kind, text in page.scripts if kind == "text/plain"]
    assert len(carried) == charts
    run += [gzip.decompress(base64.b64decode(text)).decode() for text in carried]
    expected = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert sorted(rules["script-src"]) == sorted(expected or ["'none'"])


def test_the_page_needs_nothing_else(full: Path) -> None:
    check_it_needs_nothing_else(Page(write_report(full)))


def test_a_page_without_charts_carries_no_library(run: Path) -> None:
    page = Page(write_report(run))
    assert [kind for kind, _ in page.scripts] == [""]  # of the buttons
    check_it_needs_nothing_else(page, charts=False)


def test_everything_from_the_run_is_escaped(run: Path) -> None:
    evil = "</pre><script>alert(1)</script>\"'><img src=x onerror=alert(1)>$_{"
    (run / "config.yaml").write_text(f"note: {evil}\n")
    summary = {
        "name": evil,
        "parameters": evil,
        "likelihood": {**LIKELIHOOD, "dequantisation": evil, "split": evil, "nats": evil},
        "samples": {"sampler": evil, "metrics": {evil: {"value": evil, "stderr": evil, "n": evil}}},
        "training": {"steps": evil, "seconds": evil, "skipped": [evil], "loss": {evil: evil}},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    _picture(run / "samples" / "a.png")
    listed = [{"file": "samples/a.png", "title": evil, "caption": evil}, {"file": evil, "title": evil}]
    (run / "pictures.json").write_text(json.dumps(listed))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, evil + "_loss": 2.0}) + "\n")
    page = Page(write_report(run))
    check_it_needs_nothing_else(page)
    assert len(page.scripts) == 3
    (data,) = [text for kind, text in page.scripts if kind == "application/json"]
    assert not set("<>&") & set(data)
    # plotly reads HTML in names.
    assert [t["name"] for t in json.loads(data)[0]["traces"]] == [
        "loss",
        html.escape(f"{evil} loss".replace("_", " "), quote=False),
    ]
    assert len(page.values("img", "src")) == 2
    assert not [k for _, k, _ in page.attributes if k.startswith("on")]
    assert f"note: {evil}" in page.text
    assert page.text.count(evil) >= 10


@pytest.mark.parametrize("value", [10**400, -1, 1e308, float("nan"), True, "\ud800", [], {}])
def test_absurd_values_do_not_stop_the_page(run: Path, value: Any) -> None:
    entry = dict.fromkeys(LIKELIHOOD, value)
    metric = {"m": dict.fromkeys(("value", "stderr", "n"), value)}
    summary = {
        "parameters": value,
        "likelihood": entry,
        "training": {"steps": value, "seconds": value},
        "samples": {"n": value, "nfe": value, "metrics": metric},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "metrics.jsonl").write_text(json.dumps({"step": value, "loss": value}) + "\n")
    assert "Configuration" in Page(write_report(run)).text


def test_a_configuration_alone_makes_a_page(run: Path) -> None:
    page = Page(write_report(run))
    assert "beta_max: 20.0" in page.text
    assert "interrupted" in page.text
    assert "table" not in page.tags
    assert "img" not in page.tags
    assert f"scoresde sample run={run}" in page.text


@pytest.mark.parametrize("missing", [*SUMMARY, "metrics.jsonl", "pictures.json", "summary.json", "samples/b.png"])
def test_what_is_missing_is_left_out(full: Path, missing: str) -> None:
    if missing in SUMMARY:
        rest = {k: v for k, v in SUMMARY.items() if k != missing}
        (full / "summary.json").write_text(json.dumps(rest))
    else:
        (full / missing).unlink()
    page = Page(write_report(full))
    assert "Configuration" in page.text
    expected = {"metrics.jsonl": 2, "samples/b.png": 2}.get(missing, 3)
    assert len(page.values("img", "src")) == expected
    assert ("cannot" in page.text or "is missing" in page.text) == (missing == "samples/b.png")


@pytest.mark.parametrize("missing", sorted({*LIKELIHOOD}))
def test_entries_of_a_likelihood_are_optional(run: Path, missing: str) -> None:
    entry = {k: v for k, v in LIKELIHOOD.items() if k != missing}
    (run / "summary.json").write_text(json.dumps({"likelihood": entry}))
    Page(write_report(run))


def test_continuous_data_have_no_bits(run: Path) -> None:
    entry = {**LIKELIHOOD, "bits_per_dim": None, "nats": -1.234, "stderr": 0.021}
    (run / "summary.json").write_text(json.dumps({"likelihood": entry}))
    page = Page(write_report(run))
    assert page.row("log-likelihood, nats") == ["-1.23 ± 0.02"]
    assert not [r for r in page.cells if r[0] == "bits/dim"]


def test_pictures_without_a_list_come_in_natural_order(run: Path) -> None:
    for step in (10, 9, 100):
        _picture(run / "samples" / f"step_{step}.png")
    page = Page(write_report(run))
    assert page.values("img", "alt") == ["step_9", "step_10", "step_100"]


@pytest.mark.parametrize("kind", ["outside", "link", "absolute", "not a picture", "directory"])
def test_only_pictures_of_the_run_are_shown(run: Path, kind: str) -> None:
    secret = run.parent / "secret.png"
    content = _picture(secret)
    (run / "samples").mkdir()
    os.symlink(secret, run / "samples" / "link.png")
    (run / "samples" / "text.png").write_text("password")
    files = {
        "outside": "../secret.png",
        "link": "samples/link.png",
        "absolute": str(secret),
        "not a picture": "samples/text.png",
        "directory": "samples",
    }
    (run / "pictures.json").write_text(json.dumps([{"file": files[kind], "title": "t"}]))
    page = Page(write_report(run))
    assert "img" not in page.tags
    assert "is missing, not a PNG, or outside the run directory" in page.text
    assert base64.b64encode(content).decode() not in page.source


def test_pictures_above_the_limits_are_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _picture(run / "samples" / "good.png")
    (run / "samples" / "heavy.png").write_bytes(content + bytes(2**24))
    (run / "samples" / "wide.png").write_bytes(content[:16] + (2**31 - 1).to_bytes(4, "big") + content[20:])
    os.mkfifo(run / "samples" / "pipe.png")
    files = [{"file": f"samples/{name}.png", "title": name} for name in ("heavy", "wide", "pipe", "good", "good")]
    (run / "pictures.json").write_text(json.dumps(files))
    page = Page(write_report(run))
    assert page.values("img", "alt") == ["good", "good"]
    assert "'samples/heavy.png' is left out: " in page.text
    assert "the limit for such a file is 16,777,216" in page.text
    assert "'samples/wide.png' has more than 67108864 pixels (SCORESDE_PIXELS)" in page.text
    assert "'samples/pipe.png' is missing, not a PNG" in page.text
    monkeypatch.setattr("scoresde.report.png._MAX_TOTAL_BYTES", len(content) + 1)
    page = Page(write_report(run))
    assert page.values("img", "alt") == ["good"]
    assert "'samples/good.png' and others are left out" in page.text


def test_log_lines_of_steps_that_were_run_again_are_replaced(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    real = plots.learning_curves

    def record(steps: Any, series: Any) -> Any:
        drawn.update(steps=steps, **series)
        return real(steps, series)

    monkeypatch.setattr(plots, "learning_curves", record)
    losses = [(10, 5.0), (20, 4.0), (30, 3.0), (20, 40.0), (30, None), (40, 20.0)]
    lines = [json.dumps({"step": s, "loss": v, "held_out_loss": 2 * s}) for s, v in losses]
    lines += [json.dumps({"step": 40, "event": "evaluation", "loss": 9.0}), "", '"text"', '{"step": 50, "lo']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    page = Page(write_report(run))
    assert drawn["steps"] == [10, 20, 30, 40]
    assert drawn["loss"] == pytest.approx([5, 40, float("nan"), 20], nan_ok=True)
    assert drawn["held out loss"] == [20, 40, 60, 80]
    assert "cannot be read and were left out: 1" in page.text
    assert "not finite at 1 logged steps, the last of them 30" in page.text
    assert "Last logged: step 40" in page.text


@pytest.mark.parametrize("file", ["summary.json", "pictures.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b'{"a": ', b"[1, 2", b"\xff\xfe\x00", b"null", b"[null]", b"3", b""])
def test_broken_files_do_not_stop_the_page(full: Path, file: str, content: bytes) -> None:
    (full / file).write_bytes(content)
    assert "Configuration" in Page(write_report(full)).text


def test_commands_quote_awkward_directories(tmp_path: Path) -> None:
    run = tmp_path / "my run, it's"
    run.mkdir()
    (run / "config.yaml").write_text("a: 1\n")
    page = Page(write_report(run))
    import shlex

    line = next(text for text in page.text.split("\n") if text.startswith("scoresde likelihood"))
    assert shlex.split(line) == ["scoresde", "likelihood", f'run="{run}"', "split=test"]


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist; give a directory that `scoresde train` wrote"):
        write_report(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"is not a run directory: it has no config\.yaml"):
        write_report(tmp_path)


def test_an_old_report_survives_a_failure(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(full)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    (full / "config.yaml").write_text("changed: true\n")
    with pytest.raises(OSError, match="disk full"):
        write_report(full)
    assert path.read_bytes() == before
    assert not [p for p in full.iterdir() if "report" in p.name and p != path]
