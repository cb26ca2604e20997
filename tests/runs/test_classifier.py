"""Runs of a classifier of noised samples: from training to guided samples, evaluations and comparisons."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.guidance import ClassifierGuidance
from scoresde.runs.directory import Run

TOY = [
    "data=two_moons",
    "+data.n_train=200",
    "+data.n_test=60",
    "network.width=16",
    "network.blocks=1",
    "progress=false",
]
CLASSIFIER = [
    "train",
    *TOY,
    "objective=classifier",
    "network=mlp_classifier",
    "training.batch_size=32",
    "optimizer.lr=1e-2",
]
MODEL = ["train", *TOY, "network=mlp", "sde=edm", "training.steps=5", "evaluation.samples=0", "evaluation.likelihood=0"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier under VP, one of five steps so far, and a model without labels under EDM's SDE."""
    folder = tmp_path_factory.mktemp("classifiers")
    main([*CLASSIFIER, "training.steps=150", f"runs={folder}", "name=classifier"])
    main([*MODEL, "evaluation.pictures=false", f"runs={folder}", "name=model"])
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_its_accuracy_is_in_summary_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    entry = json.loads(Path("classifier/summary.json").read_text())["classifier"]
    held_out = entry["held_out"]
    assert held_out["accuracy"][-1] > 0.85  # without noise
    assert abs(held_out["accuracy"][0] - 0.5) < 4 * held_out["accuracy_stderr"][0]  # nothing but noise
    assert held_out["cross_entropy"][0] == pytest.approx(np.log(2), abs=0.15)
    assert held_out["mean_accuracy"]["n"] == 60
    assert "num_classes: 2\n" in Path("classifier/config.yaml").read_text()
    page = Path("classifier/report.html").read_text()
    for text in (
        "Classifier of noised samples",
        "Accuracy by noise level",
        "Accuracy, held-out",
        "Cross-entropy at the",
    ):
        assert text in page
    assert Path("classifier/samples/accuracy.png").is_file()
    main(["train", "run=classifier"])
    assert "classifier is finished: nothing to do" in capsys.readouterr().out


def test_training_goes_on_where_it_was(tmp_path: Path) -> None:
    main([*CLASSIFIER, "training.steps=4", "training.final_lr=1", f"runs={tmp_path}", "name=whole"])
    main([*CLASSIFIER, "training.steps=2", "training.final_lr=1", f"runs={tmp_path}", "name=parts"])
    main(["train", f"run={tmp_path / 'parts'}", "training.steps=4", "progress=false"])
    one, other = (scoresde.load_classifier(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_samples_are_those_of_the_guided_model(capsys: pytest.CaptureFixture[str]) -> None:
    main([
        "sample", "run=model", "guidance=classifier", "guidance.classifier=classifier", "guidance.scale=4", "label=1",
        "n=16", "name=guided", "sampler=heun", "sampler.grid.steps=20", "-q",
    ])  # fmt: skip
    with np.load("model/samples/guided.npz") as file:
        x, labels, note = torch.from_numpy(file["x"]), file["labels"], json.loads(str(file["note"]))
    assert labels.tolist() == [1] * 16
    assert note["guidance"].startswith("ByClassifier(scale=4.0, interval=None, classifier='")
    model, classifier = scoresde.load("model"), scoresde.load_classifier("classifier")
    with pytest.raises(SystemExit):  # without guidance there is no class
        main(["sample", "run=model", "label=1", "n=4", "-q"])
    guided = ClassifierGuidance(model, classifier, 4.0)
    sampler = scoresde.sampling.Sampler(scoresde.sampling.Heun(), scoresde.sampling.UniformTime(20))
    config = Run.open("model")
    assert config.info() is not None
    out = sampler(guided, 16, seed=0, labels=1)
    assert out.x.shape == x.shape
    capsys.readouterr()
    t = model.sde.t_min_sampling
    share = classifier.under(model.sde)(model.to_model_space(x), torch.tensor(t)).softmax(1)[:, 1].mean()
    assert share > 0.9


def test_evaluations_and_comparisons_of_a_guided_model(capsys: pytest.CaptureFixture[str]) -> None:
    guidance = ["run=model", "guidance=classifier", "guidance.classifier=classifier", "n=30", "progress=false"]
    main(["evaluate", *guidance, "sampler=heun", "sampler.grid.steps=5"])
    assert "labels_right" in capsys.readouterr().out
    main(["compare", *guidance, "label=1", "n=20", "samplers=[heun]", "steps=[5]", "tol=1e-3"])
    assert "heun" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sample run=classifier", "classifier has a classifier of noised samples, and this needs a model of them"),
        ("likelihood run=classifier", "classifier has a classifier of noised samples, and this needs a model of them"),
        ("sample run=model guidance=classifier", "guidance.classifier is missing"),
        (
            "sample run=model guidance=classifier guidance.classifier=model",
            "model has a NetworkScore, expected a class",
        ),
        ("sample run=model guidance=classifier guidance.classifier=classifier label=2", "label is 2, expected 0 to 1"),
        ("train objective=classifier network=mlp data=two_moons", "the network is MLP, which predicts samples: leave"),
        (
            "train network=mlp_classifier data=two_moons",
            "the network is MLPClassifier, which gives classes and no samp",
        ),
        (
            "train objective=classifier data=swiss_roll",
            "network.num_classes=auto, and the data set swiss_roll has no l",
        ),
        ("train objective=classifier data=two_moons network.num_classes=3", "set network.num_classes=2"),
        ("train objective=classifier network.token_size=3", "network.token_size is of a score model, and a classifier"),
    ],
)
def test_bad_input_is_one_line(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "-q"])
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_classifier_is_no_score_model() -> None:
    with pytest.raises(ValueError, match="has a classifier of noised samples"):
        scoresde.load("classifier")
    with pytest.raises(ValueError, match="expected a classifier of noised samples"):
        scoresde.load_classifier("model")
