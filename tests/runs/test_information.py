"""Information of a run: tables that resume, results, figures and refusals."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde.cli import main
from scoresde.information import (
    class_information,
    conditional_information,
    denoising_information,
    flipd,
    kl_divergence,
    three_ways,
)
from scoresde.likelihood import bits_per_dim
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.trace import Exact
from scoresde.options.errors import ConfigError
from scoresde.report import write_report
from scoresde.runs import information_against, information_table
from scoresde.runs.directory import Run
from scoresde.runs.information_against import check_against
from scoresde.runs.information_table import band_edges, bands, dequantised, in_bands
from scoresde.runs.paired import Contender
from scoresde.runs.results import outdate
from scoresde.sde import VESDE
from tests.problems import generator

pytestmark = pytest.mark.slow  # likelihoods of networks

STORED = Path(__file__).parent.parent / "stored_runs"  # the toy has two dimensions of 16 levels, and no labels
OPTIONS = ("n=6", "draws=8", "tol=1", "dimension=4", "batch_size=2", "progress=false")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    shutil.copy(STORED / "points.npz", tmp_path)
    for name in ("toy", "digits"):
        shutil.copytree(STORED / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: str) -> list[dict[str, float]]:
    with Path(path).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def note(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def test_rows_are_what_the_library_computes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["information", "run=toy", *OPTIONS])
    out = capsys.readouterr().out
    found = rows("toy/information-test.csv")
    assert [row["index"] for row in found] == list(range(6))
    run = Run.open("toy")
    model, data = run.model(), run.data()
    raw = data.test[:6]
    bits = bits_per_dim(model, raw, data.transform, tol=1.0, divergence=Exact(), elbo_draws=16)
    scale = -1 / (2 * math.log(2))
    assert torch.allclose(torch.tensor([row["ode"] * scale for row in found], dtype=torch.float64), bits.bits)
    assert bits.elbo is not None
    assert torch.allclose(torch.tensor([row["elbo"] * scale for row in found], dtype=torch.float64), bits.elbo)
    x, offset = dequantised(data, raw, 0, 0)
    immse = denoising_information(model, x, draws=8)
    assert [row["immse"] for row in found] == pytest.approx((immse.log_prob + offset).tolist(), rel=1e-5)
    assert [row["excess_03"] for row in found] == pytest.approx(immse.excess[:, 3].tolist(), rel=1e-4, abs=1e-5)
    dimension = flipd(model, x[:4]).dimension[0].tolist()
    assert [row["dimension"] for row in found[:4]] == pytest.approx(dimension, rel=1e-5)
    assert math.isnan(found[4]["dimension"])
    assert math.isnan(found[0]["labels"])

    results = note("toy/information-test.json")
    mean, error = mean_and_error(bits.bits, bits.solver_stderr)
    assert results["ways"]["ode"] == {"mean": pytest.approx(mean, rel=1e-5), "stderr": pytest.approx(error, rel=1e-5)}
    assert results["unit"] == "bits/dim"
    assert results["entropy"]["mean"] == pytest.approx(mean * 2 * math.log(2), rel=1e-5)
    assert results["dimension"]["mean"] == pytest.approx(sum(dimension) / 4, rel=1e-5)
    assert [len(results["curve"][key]["mean"]) for key in ("error", "normal", "excess")] == [8, 8, 8]
    assert results["curve"]["log_snr"] == pytest.approx(immse.edges.tolist())
    errors = (immse.errors.mean(0)).tolist()
    assert results["curve"]["error"]["mean"] == pytest.approx(errors, rel=1e-4)
    assert sorted(results["typicality"]["most_likely"] + results["typicality"]["least_likely"]) == list(range(6))
    assert "labels" not in results
    assert "probability-flow ODE" in out
    assert all(each["verdict"] in out for each in results["agreements"])

    seen = rows("toy/information-train.csv")
    costs = [after["immse"] - before["immse"] for before, after in zip(found, seen, strict=True)]
    assert results["training"]["gap"]["mean"] == pytest.approx(sum(costs) / 6 / (2 * math.log(2)))
    x, offset = dequantised(data, data.train[:6], 0, 0)
    known = (denoising_information(model, x, draws=8).log_prob + offset).tolist()
    assert [row["immse"] for row in seen] == pytest.approx(known, rel=1e-5)
    assert (work / "toy/samples/information-test.png").is_file()
    assert (work / "toy/samples/information-test-differences.png").is_file()


def test_an_interrupted_command_resumes(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []
    whole = three_ways

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["first"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(information_table, "three_ways", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["information", "run=toy", *OPTIONS])
    assert len(rows("toy/information-test.csv")) == 2
    main(["information", "run=toy", *OPTIONS])
    assert calls == [0, 2, 2, 4]
    stopped = Path("toy/information-test.csv").read_text()
    main(["information", "run=toy", *OPTIONS])
    assert calls == [0, 2, 2, 4]
    # Fewer samples and other batches, the same rows.
    main(["information", "run=toy", *OPTIONS, "n=3", "batch_size=5"])
    assert calls == [0, 2, 2, 4]
    assert Path("toy/information-test.csv").read_text() == stopped
    # The results are those of more samples, as before, and only new ones replace them.
    assert note("toy/information-test.json")["n"] == 6
    assert "stay those of 6 samples" in capsys.readouterr().out
    calls[:] = [0]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["information", "run=toy", *OPTIONS, "n=8"])
    assert note("toy/information-test.json")["n"] == 6
    main(["information", "run=toy", *OPTIONS, "n=8"])
    assert note("toy/information-test.json")["n"] == 8
    stopped = Path("toy/information-test.csv").read_text()
    # Other settings have a table of their own.
    main(["information", "run=toy", *OPTIONS, "seed=5", "n=2", "overfitting=false"])
    assert note("toy/information-test-seed5.json")["n"] == 2
    assert Path("toy/information-test.csv").read_text() == stopped


def test_labels_of_a_conditional_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["information", "run=digits", *OPTIONS, "n=4", "dimension=2", "classes=3"])
    out = capsys.readouterr().out
    run = Run.open("digits")
    model, data = run.model(), run.data()
    results = note("digits/information-test.json")
    assert "bits/dim given the label" in out
    x, _ = dequantised(data, data.test[:4], 0, 0)
    assert data.test_labels is not None
    known = conditional_information(model, x, {"labels": data.test_labels[:4]}, draws=8)
    found = torch.tensor([row["labels"] for row in rows("digits/information-test.csv")], dtype=torch.float64)
    assert torch.allclose(found, known.nats, atol=1e-4)
    assert results["labels"]["nats"]["mean"] == pytest.approx(float(found.mean()))
    assert results["labels"]["bits"]["mean"] == pytest.approx(float(found.mean()) / math.log(2))
    assert data.train_labels is not None
    shares = torch.bincount(data.train_labels).double()
    entropy = -(shares / shares.sum())[data.test_labels[:4]].log().mean()
    assert results["labels"]["entropy_of_labels"] == pytest.approx(float(entropy))
    by_class = class_information(model, x[:3], data.test_labels[:3], prior=shares, draws=8)
    found = torch.tensor([row["classes"] for row in rows("digits/information-test.csv")], dtype=torch.float64)
    assert torch.allclose(found[:3], by_class.nats, atol=1e-3)
    assert bool(found[3].isnan())
    assert results["classes"]["accuracy"]["mean"] == pytest.approx(by_class.accuracy[0])
    assert "are the most probable class of" in out
    for name in ("-typicality", "-dimension"):
        assert (work / f"digits/samples/information-test{name}.png").is_file()
    page = write_report("digits").read_text(encoding="utf-8")
    assert "information of the labels, nats" in page
    assert "Where information differs" in page
    assert "Typicality" in page


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["information", *arguments, *OPTIONS])
    assert caught.value.code in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert not list(Path().glob("*/information*"))
    return error.removeprefix("scoresde: ").strip()


def test_what_cannot_be_had_is_refused_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unconditional = refusal(capsys, "run=toy", "labels=true")
    assert unconditional.startswith("labels=true is the conditional information of an unconditional run: leave it out")
    assert refusal(capsys, "run=toy", "draw=3").startswith("information has no 'draw', did you mean draws=3?")
    assert refusal(capsys, "run=nowhere").startswith("run=nowhere does not exist")
    assert refusal(capsys, "run=toy", "split=all") == "split is 'all', expected 'test' or 'train' or null"
    level = refusal(capsys, "run=toy", "dimension_log_snr=60")
    assert level.startswith("dimension_log_snr is 60, expected a number from -")


def test_bands_add_up_strata() -> None:
    values = torch.arange(100.0, dtype=torch.float64).repeat(3, 1)
    found = in_bands(values)
    assert found.shape == (3, bands(100))
    assert torch.equal(found.sum(1), values.sum(1))
    edges = band_edges(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert len(edges) == bands(100) + 1
    assert (edges[0], edges[-1]) == (0.0, 1.0)
    # The edges are those of the strata whose values are added.
    assert torch.allclose(in_bands(torch.full((1, 100), 0.01, dtype=torch.float64))[0], edges.diff())


def test_absurd_results_do_not_stop_the_page(work: Path) -> None:
    absurd: list[Any] = [[], 3, {"ways": 5}, {"ways": {"ode": []}, "agreements": {}, "curve": {"log_snr": [1, "a"]}}]
    absurd.append({"ways": {"ode": {"mean": "x"}}, "unit": ["<b>"], "curve": {"error": {"mean": [None]}}, "labels": 1})
    for value in absurd:
        Path("toy/information-test.json").write_text(json.dumps(value))
        page = write_report("toy").read_text(encoding="utf-8")
        assert "<b>" not in page.partition("</main>")[0].partition("<main>")[2]


def test_data_that_changed_do_not_reuse_rows(work: Path) -> None:
    main(["information", "run=toy", *OPTIONS, "n=2", "overfitting=false"])
    run = Run.open("toy")
    model = run.model()
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    run.save_model(model, 2001)
    main(["information", "run=toy", *OPTIONS, "n=2", "overfitting=false"])
    assert len(list(work.glob("toy/information-test*.csv"))) == 2
    # The run's own are those of its weights.
    assert note("toy/information-test.json")["settings"]["model"] == run.fingerprint()


def make_pair(work: Path) -> None:
    """A copy of the run whose weights differ by a little."""
    run = Run.open(shutil.copytree(work / "toy", work / "other"))
    model = run.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.05 * torch.randn(parameter.shape, generator=generator(1)))
    run.save_model(model, 2000)


def run_samples(run: Run, count: int) -> torch.Tensor:
    """Samples of the run by its own sampler, in the units that `kl_divergence` takes."""
    x: torch.Tensor = run.make("sampler")(run.model(), (count, *run.data().shape), seed=0).x
    return x


def test_a_run_against_another(
    work: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_pair(work)
    quick = (*OPTIONS, "dimension=0", "overfitting=false", "samples=5")
    main(["information", "run=toy", "against=other", *quick])
    out = capsys.readouterr().out
    runs = [Run.open(name) for name in ("toy", "other")]
    one, other = (run.model() for run in runs)
    data = runs[0].data()
    x, _ = dequantised(data, data.test[:6], 0, 0)
    known = kl_divergence(one, other, x, draws=8)
    found = rows("toy/information-against-other-test.csv")
    assert [row["log_ratio"] for row in found] == pytest.approx(known.log_ratio.tolist(), rel=1e-3, abs=1e-4)
    assert [row["squares_02"] for row in found] == pytest.approx(known.by_level[:, 2].tolist(), rel=1e-3, abs=1e-5)
    # The difference of the two runs' own log-densities, at the same noise.
    values = [denoising_information(model, x, draws=8).log_prob for model in (one, other)]
    assert known.log_ratio.tolist() == pytest.approx((values[0] - values[1]).tolist(), abs=1e-2)
    results = note("toy/information-against-other-test.json")
    assert results["costs_more"]["mean"] == pytest.approx(float(known.log_ratio.mean()) / (2 * math.log(2)), rel=1e-3)
    assert results["divergence"]["samples"] == 5
    assert results["verdict"] in out
    assert "KL(toy || other): " in out
    assert len(rows("toy/information-against-other-test-samples.csv")) == 5
    assert (work / "toy/samples/information-against-other-test.png").is_file()
    page = write_report("toy").read_text(encoding="utf-8")
    assert "Against other runs" in page

    def computed(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("rows are there already")

    # More samples are added to those that are there, and fewer are the first of them.
    before = (work / "toy/information-against-other-test-samples.csv").read_text()
    main(["information", "run=toy", "against=other", *quick, "samples=7"])
    drawn = (work / "toy/information-against-other-test-samples.csv").read_text()
    assert drawn.startswith(before)
    assert len(rows("toy/information-against-other-test-samples.csv")) == 7
    model_x = run_samples(runs[0], 7)
    known = kl_divergence(one, other, model_x, draws=8)
    found = rows("toy/information-against-other-test-samples.csv")
    assert [row["squares"] for row in found] == pytest.approx(known.squares.tolist(), rel=1e-2, abs=1e-4)
    capsys.readouterr()
    monkeypatch.setattr(information_against, "kl_divergence", computed)
    folder = work / "folder"
    folder.mkdir()
    (work / "other").rename(folder / "other")
    for words in (["run=toy", "against=folder"], ["run=toy,folder/other"], ["toy", "folder/other"]):
        main(["information", *words, *quick])
        assert capsys.readouterr().out.count("KL(toy || other): ") == 1
    main(["information", "run=toy", "against=folder", *quick, "n=3"])
    assert note("toy/information-against-other-test.json")["n"] == 6
    assert capsys.readouterr().out.count("stay those of 6 samples") == 2
    # Several places, of which the folder has the run that is named as well.
    for listed in ("folder,folder/other", "[folder,folder/other]"):
        main(["information", "run=toy", f"against={listed}", *quick])
        assert capsys.readouterr().out.count("KL(toy || other): ") == 1
    # Of a folder, runs that are of other data or unfinished are left out.
    for name in ("unfinished", "broken"):
        (folder / name).mkdir()
    shutil.copy("toy/config.yaml", folder / "unfinished")
    (folder / "broken/config.yaml").write_text("a: [")
    (work / "digits").rename(folder / "digits")
    main(["information", "run=toy", "against=folder", *quick])
    shown = capsys.readouterr()
    assert shown.out.count("KL(toy || ") == 1
    told = shown.err + caplog.text  # by the log, where there is one
    assert told.count("left out: ") == 3
    assert "folder/unfinished/model.safetensors is missing" in told
    (folder / "other").rename(work / "other")
    with pytest.raises(SystemExit):
        main(["information", "run=toy", "against=folder", *quick])
    assert "against=folder has no run to compare toy with: " in capsys.readouterr().err


def test_results_of_earlier_weights_are_kept_with_their_figures(work: Path) -> None:
    make_pair(work)
    options = ("n=4", "draws=4", "tol=1", "dimension=2", "samples=3", "progress=false")
    main(["information", "run=toy", "against=other", *options])
    run = Run.open("toy")
    step, stems = run.step(), ("information-test", "information-train", "information-against-other-test")
    names = [*(f"{stem}.csv" for stem in stems), "information-against-other-test-samples.csv"]
    before = {name: (work / "toy" / name).read_bytes() for name in names}
    drawn = [path.name for path in work.glob("toy/samples/information-*.png")]
    assert "information-test-differences.png" in drawn
    model = run.model()
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    run.save_model(model, 2001)
    main(["information", "run=toy", "against=other", *options, "overfitting=false"])
    for name, content in before.items():
        if "train" not in name:  # of which there are no new ones
            split = name.index("test") + 4
            assert (work / "toy" / f"{name[:split]}-step{step}{name[split:]}").read_bytes() == content
            assert (work / "toy" / name).read_bytes() != content
    listed = [picture["file"] for picture in run.pictures()]
    assert f"samples/information-test-step{step}-differences.png" in listed
    assert "samples/information-test-differences.png" not in listed
    for name in drawn:
        assert (work / "toy/samples" / name.replace("-test", f"-test-step{step}")).is_file()
    # Training that goes on does the same before there are new results.
    outdate(run, 2001)
    assert not [path.name for path in work.glob("toy/information-*-test.*")]
    assert (work / "toy/information-against-other-test-step2001-samples.csv").is_file()


def test_a_note_that_cannot_be_read_makes_room(work: Path) -> None:
    options = ("n=2", "draws=4", "tol=1", "dimension=0", "overfitting=false", "progress=false")
    main(["information", "run=toy", *options])
    table = (work / "toy/information-test.csv").read_bytes()
    (work / "toy/information-test.json").write_text('{"settings": {"split"')
    main(["information", "run=toy", *options])
    assert (work / "toy/information-test-earlier.csv").read_bytes() == table
    assert note("toy/information-test.json")["n"] == 2
    assert len(list(work.glob("toy/information-test*.csv"))) == 2


def test_runs_that_do_not_fit_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pair(work)
    assert refusal(capsys, "run=toy", "against=nowhere").startswith("against=nowhere does not exist")
    assert refusal(capsys, "run=toy,toy") == "toy is the run itself: give another one to compare with"
    assert refusal(capsys, "run=toy", "against=toy") == "toy is the run itself: give another one to compare with"
    differing = refusal(capsys, "run=toy", "against=digits")
    assert differing.startswith("toy and digits differ in data (6 samples of points")
    assert differing.endswith("against compares runs on the same samples")
    run, other = Run.open("toy"), Run.open("other")
    early, late = run.model(), other.model()
    early.sde, late.sde = VESDE(sigma_min=0.01, sigma_max=50.0), VESDE(sigma_min=60.0, sigma_max=500.0)
    contenders = [Contender("a", run, early, run.data()), Contender("b", other, late, run.data())]
    with pytest.raises(ConfigError, match="a and b: the ranges of log SNR of the models do not overlap: "):
        check_against(contenders, "test", 3)


def test_what_is_known_of_overfitting_stays_without_being_asked_for(work: Path) -> None:
    options = ("n=4", "draws=4", "tol=1", "dimension=0", "progress=false")
    main(["information", "run=toy", *options])
    before = note("toy/information-test.json")
    main(["information", "run=toy", "overfitting=false", *options])
    after = note("toy/information-test.json")
    assert after["training"] == before["training"]
    main(["information", "run=toy", "overfitting=false", "name=alone", *options])
    assert "training" not in note("toy/information-test-alone.json")


@pytest.mark.parametrize("name", ["differences", "dimension", "samples", "typicality"])
def test_names_that_figures_and_tables_end_in_are_refused(
    work: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    told = refusal(capsys, "run=toy", f"name={name}")
    assert told.startswith(f"name is '{name}', which figures or tables of other results end in: expected another")
    assert not list(work.glob("toy/information*"))
