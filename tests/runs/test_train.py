"""From a configuration to a run directory and back, as a library: the commands are in test_cli.py."""

import csv
import json
import math
import os
import pickle
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import scoresde
from scoresde.cli import conf_dir
from scoresde.data import Identity, digits, two_moons
from scoresde.likelihood import bits_per_dim, log_likelihood
from scoresde.options.errors import ConfigError
from scoresde.runs import stages
from scoresde.runs import train as training
from scoresde.runs.directory import Run
from scoresde.runs.evaluate import evaluate, sample_quality
from scoresde.runs.labels import check_labels
from scoresde.runs.likelihood import likelihood
from scoresde.runs.results import Filing, outdate
from scoresde.runs.sample import Draw, sample
from scoresde.runs.stages import Context, Fit, Report, Save, Stage, number_to_evaluate
from scoresde.runs.train import train
from scoresde.sampling import Euler, Sampler
from scoresde.sampling.solver import NonFiniteError
from scoresde.score import NetworkScore
from scoresde.storage import files
from scoresde.training.loggers import LocalLogger, Logger
from scoresde.training.loop import Trainer
from tests.problems import Once

pytestmark = pytest.mark.slow  # trains runs

SMALL = [
    "network=mlp",
    "network.width=16",
    "network.blocks=1",
    "network.embedding.dim=8",
    "training.steps=20",
    "training.batch_size=32",
    "training.warmup=5",
    "training.log_every=5",
    "training.checkpoint_every=10",
    "sampler.grid.steps=4",
    "evaluation.samples=12",
    "evaluation.likelihood=6",
    "evaluation.tol=0.5",
]
TOY = ["data=two_moons", "+data.n_train=200", "+data.n_test=40", *SMALL]
TRAINING_ONLY = tuple(stage for stage in training.STAGES if isinstance(stage, Fit | Save | Report))
COMMAND = ("run", "resume", "runs", "name", "allow", "progress")


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        whole = OmegaConf.to_container(compose(config_name="train", overrides=list(overrides)), resolve=True)
    assert isinstance(whole, dict)
    return OmegaConf.create({k: v for k, v in whole.items() if k not in COMMAND})


class Recorder(Logger):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self.events.append(("start", run_dir.name, config["sde"]["_target_"]))

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        self.events.append(("numbers", step, values))

    def picture(self, step: int, name: str, path: Path) -> None:
        assert path.is_file()
        self.events.append(("picture", step, name))

    def finish(self) -> None:
        self.events.append(("finish",))


@pytest.fixture(scope="module")
def trained(once: Once) -> SimpleNamespace:
    """Digits by class, a perceptron, 20 steps: the whole way."""

    def make(folder: Path) -> None:
        run = Run(folder / "digits", config("network.num_classes=10", "network.label_dropout=0.1", *SMALL))
        logger = Recorder()
        train(run, [logger], progress=False)
        (folder / "events.pickle").write_bytes(pickle.dumps(logger.events))

    folder = once("digits", make)
    run = Run.open(folder / "digits")
    events = pickle.loads((folder / "events.pickle").read_bytes())
    return SimpleNamespace(run=run, directory=run.directory, events=events, data=run.data())


@pytest.fixture
def copied(trained: SimpleNamespace, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(trained.directory, tmp_path / "run"))


def numbers(node: Any) -> list[float]:
    if isinstance(node, dict):
        return [v for value in node.values() for v in numbers(value)]
    if isinstance(node, list):
        return [v for value in node for v in numbers(value)]
    return [node] if isinstance(node, (int, float)) and not isinstance(node, bool) else []


# -- a run directory ------------------------------------------------------------------------------------


def test_all_files_are_there(trained: SimpleNamespace) -> None:
    here = {str(path.relative_to(trained.directory)) for path in trained.directory.rglob("*") if path.is_file()}
    expected = {
        "config.yaml",
        "data.json",
        "model.safetensors",
        "metrics.jsonl",
        "summary.json",
        "pictures.json",
        "report.html",
        "likelihood-test.csv",
        "likelihood-test.json",
        "likelihood-train.csv",
        "likelihood-train.json",
        "samples/likelihood-test.png",
        "samples/likelihood-train.png",
        "samples/samples.npz",
        "samples/samples.png",
        "samples/samples-copies.png",
        "samples/samples-shares.png",
        "samples/samples-spectrum.png",
        "samples/beside-data.png",
        "samples/beside-samples.png",
        "samples/forward_process.png",
        "samples/trajectory.png",
        "samples/loss_by_noise_level.png",
        "samples/likelihood.png",
        "checkpoints/step-000000010.pt",
        "checkpoints/step-000000020.pt",
    }
    assert here == expected
    for file in here:
        if file.endswith(".png"):
            Image.open(trained.directory / file).verify()
    pictures = json.loads((trained.directory / "pictures.json").read_text())
    captions = {p["file"]: p["caption"] for p in pictures}
    assert "each sample, given its label" in captions["samples/likelihood.png"]
    assert captions["samples/likelihood-test.png"].endswith("in bits/dim given the label.")
    listed = [p["file"] for p in pictures]
    assert sorted(listed) == sorted(file for file in here if file.endswith(".png"))


def test_the_summary_is_complete_and_finite(trained: SimpleNamespace) -> None:
    text = (trained.directory / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    summary = json.loads(text)
    assert all(math.isfinite(v) for v in numbers(summary))
    assert summary["name"] == "digits"
    assert summary["parameters"] == sum(p.numel() for p in scoresde.load(trained.directory).network.parameters())
    assert summary["training"]["steps"] == 20
    assert summary["training"]["skipped"] == 0
    assert summary["samples"]["n"] == 12
    assert summary["samples"]["nfe"] == 4 - 1 + 1 + 1  # no first evaluation, since p_T is normal; the last denoising
    of_samples = {"classifier_accuracy", "copies", "nearer_than_held_out", "authenticity", "labels_right"}
    assert set(summary["samples"]["metrics"]) == set(summary["reference"]) | of_samples
    for name in ("likelihood", "likelihood_train"):
        assert summary[name]["n"] == 6
        # A normal density of the data's mean and mean variance (6 levels) needs log2(6 √(2πe)) = 4.6 bits.
        assert 3 < summary[name]["bits_per_dim"] < 6
        assert summary[name]["nats"] == pytest.approx(-summary[name]["bits_per_dim"] * 64 * math.log(2))


def test_the_log_has_training_and_evaluation(trained: SimpleNamespace) -> None:
    lines = [json.loads(line) for line in (trained.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 20]
    assert all(line["loss"] > 0 for line in lines[:-1])
    assert lines[-1]["event"] == "evaluation"
    assert lines[-1]["likelihood/bits_per_dim"] > 0
    assert len(lines[0]["log_snr"]) == len(lines[0]["loss_by_log_snr"]) > 0


def test_a_logger_is_told_everything(trained: SimpleNamespace) -> None:
    events = trained.events
    assert events[0] == ("start", "digits", "scoresde.sde.VPSDE")
    assert events[-1] == ("finish",)
    assert [e[1] for e in events if e[0] == "numbers"] == [5, 10, 15, 20, 20]
    assert {e[2] for e in events if e[0] == "picture"} >= {"samples", "trajectory", "likelihood"}


def test_the_model_is_the_average(trained: SimpleNamespace) -> None:
    model = scoresde.load(trained.directory)
    state = torch.load(trained.directory / "checkpoints" / "step-000000020.pt", weights_only=True)
    for name, value in model.network.named_parameters():
        assert torch.equal(value, state["ema"][name])


# -- samples --------------------------------------------------------------------------------------------


def draw(run: Run, data: Any, n: int, **options: Any) -> np.lib.npyio.NpzFile:
    name, overwrite = options.pop("name", "drawn"), options.pop("overwrite", False)
    drawn = Draw(run.make("sampler"), n, **options)
    sample(run, run.model(), data, drawn, name=name, overwrite=overwrite, progress=False)
    return np.load(run.directory / "samples" / f"{name}.npz")


def test_saved_samples(trained: SimpleNamespace) -> None:
    saved = np.load(trained.directory / "samples" / "samples.npz")
    assert saved["x"].shape == (12, 1, 8, 8)
    assert saved["x"].min() >= 0
    assert saved["x"].max() <= 16
    assert saved["labels"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_samples_of_a_class(copied: Run, trained: SimpleNamespace) -> None:
    threes = draw(copied, trained.data, 5, label=3)
    assert threes["labels"].tolist() == [3] * 5
    assert (copied.directory / "samples" / "drawn.png").is_file()
    in_turn = draw(copied, trained.data, 5, name="other")
    # Sample 3 of those in turn is of class 3 and has the same noise.
    assert np.abs(threes["x"][3] - in_turn["x"][3]).max() == 0
    assert not np.array_equal(threes["x"], in_turn["x"])


def test_samples_of_a_class_by_its_name(copied: Run, trained: SimpleNamespace) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    named = replace(trained.data, class_names=names)
    assert draw(copied, named, 5, label="three")["labels"].tolist() == [3] * 5
    assert draw(copied, named, 5, label=3)["labels"].tolist() == [3] * 5  # the same, and there already
    draw(copied, named, 5, name="turns")
    captions = {p["file"]: p["caption"] for p in copied.pictures()}
    assert captions["samples/drawn.png"].startswith("5 samples of class three, 5 evaluations")
    assert captions["samples/turns.png"].startswith("5 samples of the classes zero, one, two, three, ")
    with pytest.raises(ValueError, match="label is 'tree', expected one of the classes zero, one"):
        draw(copied, named, 5, label="tree")


def test_samples_do_not_depend_on_the_batch_size(copied: Run, trained: SimpleNamespace) -> None:
    whole = draw(copied, trained.data, 6)["x"]
    parts = draw(copied, trained.data, 6, batch_size=4, name="parts")["x"]
    assert np.abs(whole.astype(float) - parts).max() <= 1  # a level, where round-off tips a value over
    assert not np.array_equal(whole, draw(copied, trained.data, 6, seed=1, name="others")["x"])


def test_samples_are_not_replaced_by_others(copied: Run, trained: SimpleNamespace) -> None:
    path = copied.directory / "samples" / "drawn.npz"
    first = draw(copied, trained.data, 6)["x"]
    before = path.read_bytes()
    drawn = Draw(copied.make("sampler"), 6)
    again, cost = sample(copied, copied.model(), trained.data, drawn, name="drawn", progress=False)
    assert cost["reused"]
    assert np.array_equal(again.numpy(), first)
    message = "drawn.npz is there already, with seed 0 instead of 1: give another name, or overwrite=true to replace it"
    with pytest.raises(ConfigError, match=message):
        draw(copied, trained.data, 6, seed=1)
    with pytest.raises(ConfigError, match="with label None instead of 3"):
        draw(copied, trained.data, 6, label=3)
    assert path.read_bytes() == before
    assert not np.array_equal(draw(copied, trained.data, 6, seed=1, overwrite=True)["x"], first)
    # Those of an older version do not say what they are.
    np.savez(path, x=first)
    with pytest.raises(ConfigError, match="drawn.npz is there already, with settings that are not known"):
        draw(copied, trained.data, 6)


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (0, {}, "n is 0, expected"),
        (10**12, {}, "n=1000000000000 would take .* of memory"),
        (-2, {}, "n is -2, expected"),
        (2.5, {}, "n is 2.5, expected an integer of at least 1"),
        ("abc", {}, "n is 'abc', expected an integer of at least 1"),
        (2, {"label": 10}, "label is 10, expected 0 to 9"),
        (2, {"label": -1}, "label is -1, expected 0 to 9"),
        (2, {"batch_size": 0}, "batch_size is 0, expected an integer of at least 1"),
        (2, {"name": "../../elsewhere"}, "name is '../../elsewhere', expected a name without slashes"),
    ],
)
def test_samples_that_cannot_be_drawn(
    copied: Run, trained: SimpleNamespace, n: Any, options: dict[str, Any], message: str
) -> None:
    before = sorted(copied.directory.rglob("*"))
    with pytest.raises(ValueError, match=message):
        draw(copied, trained.data, n, **options)
    assert sorted(copied.directory.rglob("*")) == before


# -- quality and likelihood -----------------------------------------------------------------------------


def assess(run: Run, data: Any, **options: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    sampler, n = options.pop("sampler", run.make("sampler")), options.pop("n", 12)
    filing = Filing(**{name: options.pop(name) for name in ("label", "overwrite") if name in options})
    drawn, pca = Draw(sampler, n, options.pop("seed", 0)), options.pop("pca", None)
    rest: dict[str, Any] = {"likelihood": options.pop("likelihood", 0), "progress": False, "filing": filing}
    assert not options
    key, entry, reference = evaluate(run, run.model(), data, drawn, pca=pca, **rest)
    return key, {**entry}, {**reference}


def test_an_evaluation_is_not_done_twice(copied: Run, trained: SimpleNamespace) -> None:
    before, file = copied.summary(), (copied.directory / "samples" / "samples.npz").read_bytes()
    key, entry, reference = assess(copied, trained.data)
    assert (key, entry["reused"], reference) == ("samples", True, before["reference"])
    assert copied.summary() == before
    # As if it had been interrupted after the samples.
    copied.add_to_summary(samples=None, reference=None)
    key, entry, reference = assess(copied, trained.data)
    assert key == "samples"
    assert entry["metrics"] == before["samples"]["metrics"]
    assert reference == before["reference"] == copied.summary()["reference"]
    assert (copied.directory / "samples" / "samples.npz").read_bytes() == file


def test_an_evaluation_with_other_settings_stands_beside_the_runs_own(copied: Run, trained: SimpleNamespace) -> None:
    before, file = copied.summary(), (copied.directory / "samples" / "samples.npz").read_bytes()
    sampler = copied.make("sampler")
    other = Sampler(Euler(), sampler.grid)
    changed = replace(trained.data, test=trained.data.test.flip(0))
    made = {
        "samples-n10": assess(copied, trained.data, n=10),
        "samples-seed3": assess(copied, trained.data, seed=3),
        "samples-pca4": assess(copied, trained.data, pca=4),
        "samples-euler": assess(copied, trained.data, sampler=other, label="euler"),
        f"samples-digits-{changed.fingerprint()[:8]}": assess(copied, changed),
    }
    assert [key for key, _, _ in made.values()] == list(made)
    summary = copied.summary()
    assert {key: value for key, value in summary.items() if key not in made} == before
    for key, entry, reference in made.values():
        assert summary[key] == {**entry, "reference": reference}
        assert (copied.directory / "samples" / f"{key}.npz").is_file()
    assert (copied.directory / "samples" / "samples.npz").read_bytes() == file
    # A file of the user's is not taken for one of them.
    draw(copied, trained.data, 5, name="samples-n11")
    assert assess(copied, trained.data, n=11)[0].startswith("samples-n11-")
    key, entry, reference = assess(copied, trained.data, n=10, overwrite=True)
    assert key == "samples"
    assert (copied.summary()["samples"], copied.summary()["reference"]) == (entry, reference)


def test_the_quality_of_samples(trained: SimpleNamespace) -> None:
    file = np.load(trained.directory / "samples" / "samples.npz")
    drawn, labels = torch.from_numpy(file["x"]), torch.from_numpy(file["labels"])
    statistics = trained.run.model().statistics
    quality = sample_quality(trained.data, drawn, statistics=statistics, labels=labels)
    metrics, reference = quality.metrics, quality.reference
    assert reference == trained.run.summary()["reference"]
    assert metrics == trained.run.summary()["samples"]["metrics"]
    # Training data against themselves as samples: not the figures of an untrained model.
    some = trained.data.train[torch.randperm(len(trained.data.train))[:12]]
    better = sample_quality(trained.data, some).metrics
    assert better["frechet_distance"]["value"] < metrics["frechet_distance"]["value"]
    with pytest.raises(ValueError, match="needs at least 7"):
        sample_quality(trained.data, drawn[:1])


def test_widths_of_samples_are_drawn_for_the_report(trained: SimpleNamespace) -> None:
    figures = {each["file"]: each for each in trained.run.pictures()}
    assert (trained.directory / "samples" / "samples-spectrum.png").is_file()
    found = trained.run.summary()["samples"]["metrics"]["noise_left"]["value"]
    assert f"Noise left: {found:.3g} times" in figures["samples/samples-spectrum.png"]["caption"]


def test_log_density_of_samples_by_the_model_itself(copied: Run, trained: SimpleNamespace) -> None:
    key, entry, _ = assess(copied, trained.data, n=10, likelihood=8)
    assert entry["likelihood"] == 8
    found = entry["metrics"]["nats_lost"]
    # The same by hand, given the labels, with the same draws of the dequantisation.
    model, generator = copied.model(), torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(trained.data.test), generator=generator)[:8]
    raw = torch.from_numpy(np.load(copied.directory / "samples" / f"{key}.npz")["x"])[:8]
    inside = [
        trained.data.transform.encode(x, torch.rand(x.shape, generator=generator))
        for x in (raw, trained.data.test[chosen])
    ]
    assert trained.data.test_labels is not None
    labels = torch.arange(8), trained.data.test_labels[chosen]
    densities = [log_likelihood(model, x, labels=k).log_prob for x, k in zip(inside, labels, strict=True)]
    assert found["value"] == pytest.approx(float(densities[1].mean() - densities[0].mean()), rel=1e-4)
    assert found["n"] == 8
    # Without it, it is another evaluation; and the same as that of an earlier version.
    assert "nats_lost" not in assess(copied, trained.data, n=10)[1]["metrics"]


def test_training_again_does_only_what_has_changed(copied: Run, trained: SimpleNamespace) -> None:
    """Figures with other settings of the evaluation are added, and nothing is lost."""
    before = {path: path.read_bytes() for path in (copied.directory / "samples").iterdir()}
    summary = {**copied.summary(), "name": copied.directory.name}
    copied.config.evaluation.likelihood = 8
    assert train(copied, None, progress=False)
    after = copied.summary()
    assert {key for key in after if after[key] != summary.get(key)} == {"likelihood", "likelihood_train"}
    assert (after["likelihood"]["n"], after["likelihood"]["reused"]) == (8, 6)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"likelihood.png", "likelihood-test.png", "likelihood-train.png"}
    copied.config.evaluation.draws = 2
    assert train(copied, None, progress=False)
    assert copied.summary()["likelihood"]["draws"] == 2
    assert copied.summary()["likelihood-test-draws1"] == {**after["likelihood"], "file": "likelihood-test-draws1.csv"}
    assert (copied.directory / "samples" / "likelihood-test-draws1.png").is_file()


def test_figures_of_earlier_weights_are_marked_when_training_goes_on(
    copied: Run, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copied.summary()
    values = (copied.directory / "likelihood-test.csv").read_bytes()
    copied.config.training.steps = 40

    def interrupted(self: Any, progress: bool = True) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(copied, None, progress=False)
    stopped = copied.summary()
    assert not {"samples", "reference", "likelihood", "likelihood_train"} & set(stopped)
    earlier = {
        "likelihood-test-step20": {**before["likelihood"], "file": "likelihood-test-step20.csv"},
        "likelihood-train-step20": {**before["likelihood_train"], "file": "likelihood-train-step20.csv"},
        "samples-step20": {**before["samples"], "reference": before["reference"]},
    }
    assert {key: stopped[key] for key in earlier} == earlier
    assert (copied.directory / "likelihood-test-step20.csv").read_bytes() == values
    assert not (copied.directory / "likelihood-test.csv").exists()
    assert all(p["caption"].endswith("Of the weights after 20 steps.") for p in copied.pictures())
    for picture in copied.pictures():
        assert (copied.directory / picture["file"]).is_file()
    assert "likelihood-test-step20" in (copied.directory / "report.html").read_text()
    # The weights are still those of step 20, and so are their figures.
    options = copied.config.evaluation
    again = likelihood(copied, copied.model(), trained.data, "test", 6, options, progress=False)
    assert (again["file"], again["reused"]) == ("likelihood-test-step20.csv", 6)
    assert train(copied, None, progress=False)
    after = copied.summary()
    assert {key: after[key] for key in earlier} == earlier
    assert after["likelihood"]["step"] == after["samples"]["step"] == after["training"]["steps"] == 40
    assert after["likelihood"]["bits_per_dim"] != before["likelihood"]["bits_per_dim"]
    listed = copied.pictures()
    assert listed[0]["file"] == "samples/samples.png"
    old = [p["file"] for p in listed if p["caption"].endswith("Of the weights after 20 steps.")]
    assert old == [
        "samples/samples-step20.png",
        "samples/samples-step20-spectrum.png",
        "samples/likelihood-test-step20.png",
        "samples/likelihood-train-step20.png",
    ]
    assert [p["file"] for p in listed[-4:]] == old


def test_figures_that_are_set_aside_survive_an_interruption(
    copied: Run, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any file that is renamed or written, it is completed by the next command."""
    base = copied.directory.parent / "base"
    shutil.copytree(copied.directory, base)
    whole: dict[str, Any] = {}
    for stop in range(100):
        shutil.rmtree(copied.directory)
        shutil.copytree(base, copied.directory)
        left = [stop]

        def interrupted(real: Any, left: list[int] = left) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", interrupted(Path.rename))
            patch.setattr(files, "write_atomically", interrupted(files.write_atomically))
            with suppress(KeyboardInterrupt):
                outdate(copied, 20)
        outdate(copied, 20)
        kept = (p for p in copied.directory.rglob("*.*") if p.name not in ("summary.json", "pictures.json"))
        found: dict[str, Any] = {str(p.relative_to(copied.directory)): p.read_bytes() for p in kept if p.is_file()}
        found |= {"summary": copied.summary(), "pictures": sorted(map(str, copied.pictures()))}
        whole = whole or {**found}
        if left[0]:
            break
        assert found.keys() == whole.keys()
    assert 5 < stop < 99
    assert found == whole
    assert set(found["summary"]) >= {"likelihood-test-step20", "likelihood-train-step20", "samples-step20"}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_likelihood_of_discrete_data(copied: Run, trained: SimpleNamespace) -> None:
    options = OmegaConf.merge(copied.config.evaluation, {"seed": 0, "tol": 0.5})
    entry = likelihood(copied, copied.model(), trained.data, "test", 6, options, progress=False)
    before = trained.run.summary()["likelihood"]
    assert entry["bits_per_dim"] == pytest.approx(before["bits_per_dim"], rel=1e-9)
    head, *table = rows(copied.directory / "likelihood-test.csv")
    assert head == [
        "index",
        "bits_per_dim",
        *["stderr", "stderr_dequantisation", "nfe", "divergences", "elbo", "stderr_elbo"],
        *["solver_stderr", "total_stderr"],
    ]
    assert [int(row[0]) for row in table] == list(range(6))
    values = np.array([float(row[1]) for row in table])
    assert values.mean() == pytest.approx(entry["bits_per_dim"])
    each = np.array([float(row[8]) for row in table])
    solver = np.sqrt(0.8 * (each**2).sum() / 6**2 + 0.2 * each.mean() ** 2)  # with a correlation of 0.2
    assert entry["stderr_solver"] == pytest.approx(solver)
    assert entry["stderr"] == pytest.approx(np.hypot(values.std(ddof=1) / 6**0.5, solver))
    assert copied.summary()["likelihood"]["bits_per_dim"] == entry["bits_per_dim"]
    # Half of them have the values that they had among all, up to the float32 round-off of another batch size.
    half = likelihood(copied, copied.model(), trained.data, "test", 3, options, progress=False)
    assert half["bits_per_dim"] == pytest.approx(values[:3].mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("split", "n", "message"),
    [
        ("validation", 3, "split is 'validation', expected train or test"),
        ("test", 0, "n is 0, expected"),
        ("test", -1, "n is -1, expected"),
        ("train", 1.5, "n is 1.5, expected an integer of at least 1"),
    ],
)
def test_likelihoods_that_cannot_be_had(
    copied: Run, trained: SimpleNamespace, split: str, n: Any, message: str
) -> None:
    before = (copied.directory / "likelihood-test.csv").read_bytes()
    with pytest.raises(ValueError, match=message):
        likelihood(copied, copied.model(), trained.data, split, n, copied.config.evaluation, progress=False)
    assert (copied.directory / "likelihood-test.csv").read_bytes() == before


def test_there_are_no_bits_of_continuous_data(trained: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"continuous|discrete|levels") as error:
        bits_per_dim(scoresde.load(trained.directory), torch.zeros(2, 1, 8, 8), Identity())
    assert "\n" not in str(error.value)


# -- what is refused is refused before anything is written ----------------------------------------------


def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` must not be reached."""

    class Idle(Trainer):
        def fit(self, progress: bool = True) -> None:
            raise AssertionError("training began")

    monkeypatch.setattr(training, "Trainer", Idle)


def test_every_stage_is_checked_before_the_first_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Told(Stage):
        def __init__(self, name: str, problem: str = "") -> None:
            self.name, self.problem = name, problem

        def check(self, context: Context) -> None:
            events.append(f"check {self.name}")
            if self.problem:
                raise ConfigError(self.problem)

        def run(self, context: Context) -> None:
            assert context.trainer.step == 0
            events.append(f"run {self.name}")

    run = Run(tmp_path / "run", config(*TOY))
    monkeypatch.setattr(training, "STAGES", (Told("a"), Told("b", "no"), Told("c")))
    with pytest.raises(ConfigError, match="^no$"):
        train(run, None, progress=False)
    assert events == ["check a", "check b"]
    assert not run.directory.exists()
    events.clear()
    monkeypatch.setattr(training, "STAGES", (Told("a"), Told("b")))
    assert train(run, None, progress=False)
    assert events == ["check a", "check b", "run a", "run b"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.steps=0"], "training: training.steps is 0"),
        (["training.batch_size=0"], "training: training.batch_size is 0"),
        (["training.batch_size=1.5"], "training.batch_size is 1.5"),
        (["training.ema=null"], "training.ema"),
        (["sampler.grid.steps=0"], "sampler: steps is 0"),
        (["+sampler.grid.t_min=1e-9"], "is 1e-09, outside"),
        (["optimizer.lr=-1"], "optimizer: .*-1"),
        (["optimizer.lr=abc"], "optimizer.lr is .abc., expected a number"),
        (["network.num_classes=5"], "network.num_classes is 5 but the data set two_moons has 2 classes"),
        (["evaluation.samples=-1"], "evaluation.samples is -1"),
        (["evaluation.samples=abc"], "evaluation.samples is 'abc'"),
        (["evaluation.samples=1"], "evaluation.samples=0"),
        (["evaluation.samples=6"], "at least 7"),
        (["+data.n_test=5", "~data.n_test", "+data.n_test=5"], "at least 7"),
        (["evaluation.likelihood=-3"], "evaluation.likelihood is -3"),
        (["evaluation.batch_size=0"], "evaluation.batch_size is 0"),
        (["evaluation.draws=0"], "evaluation.draws is 0"),
        (["evaluation.tol=0"], "evaluation.tol is 0"),
        (["evaluation.divergence.probes=0"], "evaluation.divergence: probes is 0"),
    ],
)
def test_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    without_training(monkeypatch)
    if overrides[0] == "+data.n_test=5":
        made = config(*TOY)
        made.data.n_test = 5
        made.evaluation.samples = 9
    else:
        made = config(*TOY, *overrides)
    with pytest.raises((ValueError, TypeError), match=message) as error:
        train(Run(tmp_path / "run", made), None, progress=False)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_too_few_samples_to_compare_are_not_if_no_number_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_training(monkeypatch)
    made = config(*TOY)
    made.data.n_test, made.evaluation.samples = 5, None
    with pytest.raises(AssertionError, match="training began"):
        train(Run(tmp_path / "run", made), None, progress=False)
    assert "5 held-out and 200 training samples are fewer than the 7 that sample quality needs" in caplog.text
    assert number_to_evaluate(made.evaluation, two_moons(n_train=20, n_test=5)) == 0
    assert number_to_evaluate(made.evaluation, two_moons(n_train=20, n_test=7)) == 7
    made.evaluation.samples = 9
    assert number_to_evaluate(made.evaluation, two_moons(n_train=20, n_test=7)) == 7


def test_labels_must_fit() -> None:
    labelled, plain = two_moons(n_train=20, n_test=5), two_moons(n_train=20, n_test=5, labels=False)
    check_labels(None, labelled)
    check_labels(None, plain)
    check_labels(2, labelled)
    with pytest.raises(ConfigError, match="num_classes is 2 but the data set two_moons has no labels: set network.num"):
        check_labels(2, plain)
    with pytest.raises(ConfigError, match="num_classes is 2 but the data set digits has 10 classes"):
        check_labels(2, digits())


# -- parts that are left out, and going on --------------------------------------------------------------


def test_nothing_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[NetworkScore] = []
    monkeypatch.setattr(stages, "pictures", lambda run, model, data, **k: drawn.append(model))
    run = Run(tmp_path / "run", config(*TOY, "evaluation.samples=0", "evaluation.likelihood=0"))
    logger = LocalLogger()
    train(run, [logger], progress=False)
    assert len(drawn) == 1
    assert set(run.summary()) == {"name", "parameters", "training", "pictures", "finished"}
    assert not (run.directory / "samples").exists()
    # A logger that is the local one is not there twice.
    assert len((run.directory / "metrics.jsonl").read_text().splitlines()) == 5


def assert_same_model(a: Path, b: Path) -> None:
    one, other = (scoresde.load(directory).state_dict() for directory in (a, b))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_failure_keeps_the_last_good_checkpoint_and_closes_the_loggers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Recorder):
        def numbers(self, step: int, values: dict[str, Any]) -> None:
            super().numbers(step, values)
            if step == 15:
                raise SystemExit("crash")  # an error of a logger would end nothing

    made = config(*TOY)
    logger = Broken()
    with pytest.raises(SystemExit, match="crash"):
        train(Run(tmp_path / "run", made), [logger], progress=False)
    assert logger.events[-1] == ("finish",)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["checkpoints", "config.yaml", "data.json", "metrics.jsonl"]
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-000000010.pt"]
    # Going on ends where an uninterrupted run does, also from a log whose last line was cut short.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "lo')
    monkeypatch.setattr(training, "STAGES", TRAINING_ONLY)
    train(Run.open(tmp_path / "run"), None, progress=False)
    train(Run(tmp_path / "straight", made), None, progress=False)
    assert_same_model(tmp_path / "run", tmp_path / "straight")
    # Step 15 was logged before the crash and after it, from the same weights: the log has it once.
    logged = [[json.loads(line) for line in (tmp_path / r / "metrics.jsonl").open()] for r in ("run", "straight")]
    assert [line["step"] for line in logged[0]] == [line["step"] for line in logged[1]] == [5, 10, 15, 20]
    assert [line["loss"] for line in logged[0]] == pytest.approx([line["loss"] for line in logged[1]])


def test_a_run_goes_on_from_the_checkpoint_before_one_that_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(training, "STAGES", TRAINING_ONLY)
    run = Run(tmp_path / "run", config(*TOY))
    train(run, None, progress=False)
    whole = shutil.copytree(run.directory, tmp_path / "whole")
    folder = run.directory / "checkpoints"
    path = folder / "step-000000020.pt"
    path.write_bytes(path.read_bytes()[:500])
    # What a killed process leaves of a write, and a file of the user's.
    for name in (".step-000000015.pt.abcd1234", ".notes"):
        (folder / name).write_bytes(b"x")
    (run.directory / ".model.safetensors.abcd1234").write_bytes(b"x")
    train(Run.open(run.directory), None, progress=False)
    assert "step-000000020.pt is damaged and was set aside" in caplog.text
    assert_same_model(run.directory, whole)
    assert sorted(os.listdir(folder)) == [
        ".notes", "step-000000010.pt", "step-000000020.pt", "step-000000020.pt.damaged"
    ]  # fmt: skip
    assert not (run.directory / ".model.safetensors.abcd1234").exists()
    logged = [json.loads(line)["step"] for line in (run.directory / "metrics.jsonl").open()]
    assert logged == [5, 10, 15, 20]


def test_lost_checkpoints_are_not_trained_over_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STAGES", TRAINING_ONLY)
    run = Run(tmp_path / "run", config(*TOY))
    train(run, None, progress=False)
    whole = shutil.copytree(run.directory, tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"restart=true, but .* can resume from step 20: leave it out"):
        train(Run.open(run.directory), None, progress=False, restart=True)
    for path in (run.directory / "checkpoints").iterdir():
        path.write_bytes(b"")
    before = {p: p.read_bytes() for p in run.directory.rglob("*") if p.suffix != ".pt" and p.is_file()}
    with pytest.raises(ValueError, match=r"there is no other: .*; or restart=true to train again from step 0"):
        train(Run.open(run.directory), None, progress=False)
    shutil.rmtree(run.directory / "checkpoints")
    for what in ("a trained model", "a log of 20 steps"):
        with pytest.raises(ConfigError, match=rf"has {what}, but no checkpoint to resume from: .*restart=true"):
            train(Run.open(run.directory), None, progress=False)
        assert {p: p.read_bytes() for p in before if p.exists()} == {p: v for p, v in before.items() if p.exists()}
        run.model_path.unlink(missing_ok=True)
    train(Run.open(run.directory), None, progress=False, restart=True)
    assert_same_model(run.directory, whole)


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STAGES", TRAINING_ONLY)
    run = Run(tmp_path / "run", config(*TOY))
    run.write_config()
    (run.directory / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    train(run, None, progress=False)
    assert [json.loads(line)["step"] for line in (run.directory / "metrics.jsonl").open()] == [5, 10, 15, 20]


def test_figures_whose_samples_are_not_finite_do_not_fail_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise NonFiniteError("3 of 4000 samples are not finite")

    monkeypatch.setattr(stages, "pictures", broken)
    run = Run(tmp_path / "run", config(*TOY, "evaluation.samples=0", "evaluation.likelihood=0"))
    train(run, progress=False)
    assert run.summary().finished
    assert "some figures are left out: 3 of 4000 samples are not finite" in caplog.text
    assert run.summary().get("pictures") is None  # so that training again draws them
