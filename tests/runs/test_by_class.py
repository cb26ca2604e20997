"""Samples compared class by class: against the data of each class, in summary, table and report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.cli import main
from scoresde.data import Data, Identity
from scoresde.metrics import evaluate_samples
from scoresde.runs.by_class import quality_by_class

TRAIN = [
    "train", "data=two_moons", "+data.n_train=120", "+data.n_test=40", "network=mlp", "network.width=16",
    "network.blocks=1", "network.num_classes=2", "training.steps=3", "evaluation.samples=0", "evaluation.likelihood=0",
    "evaluation.pictures=false", "progress=false",
]  # fmt: skip


def _data(counts: tuple[int, ...]) -> Data:
    """Gaussians in the plane, each with its mean, of so many data on either side."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    shift = 3.0 * labels[:, None].float()
    draw = torch.Generator().manual_seed(0)
    train, test = (torch.randn(len(labels), 2, generator=draw) + shift for _ in range(2))
    return Data("blobs", train, test, Identity(), labels, labels, num_classes=len(counts))


def test_a_class_is_compared_with_its_own_data() -> None:
    data = _data((40, 20, 3))
    assert data.test_labels is not None
    labels = torch.arange(90) % 3
    # The samples of class 1 are where those of class 0 should be.
    wrong = torch.where(labels == 1, 0, labels)
    samples = torch.randn(90, 2, generator=torch.Generator().manual_seed(1)) + 3.0 * wrong[:, None]
    found = quality_by_class(data, samples, labels)
    assert {name: entry["n"] for name, entry in found.items()} == {"0": 30, "1": 20}  # of class 2 there are too few
    values = {name: entry["metrics"]["frechet_distance"] for name, entry in found.items()}
    assert values["1"]["value"] > 10 > values["0"]["value"] + 3 * values["0"]["stderr"]
    assert found["1"]["reference"]["frechet_distance"]["value"] < 3
    of_class = data.test[data.test_labels == 1]
    # All twenty held-out data of the class, whose order a distance does not see.
    same = evaluate_samples(samples[labels == 1][:20].double(), of_class.double(), same_units=True)
    assert values["1"]["value"] == pytest.approx(same["frechet_distance"].value, rel=1e-6)


def test_data_without_names_or_labels_have_no_classes() -> None:
    x = torch.randn(20, 2)
    assert quality_by_class(Data("plain", x, x, Identity()), x, torch.zeros(20, dtype=torch.int64)) == {}


def test_evaluations_by_class_of_one_class_and_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main([*TRAIN, "runs=.", "name=moons"])
    quick = ["run=moons", "sampler=heun", "sampler.grid.steps=3", "progress=false"]
    main(["evaluate", *quick])
    assert "by class" in capsys.readouterr().out
    main(["evaluate", *quick, "label=1", "n=10"])
    np.savez("ones.npz", labels=np.ones(12, dtype=np.int64))
    main(["evaluate", *quick, "condition=ones.npz", "n=12"])
    main(["compare", "run=moons", "samplers=[heun]", "steps=[3]", "n=12", "tol=1e-2", "condition=ones.npz", "-q"])
    summary = json.loads(Path("moons/summary.json").read_text())
    assert summary["samples"]["classes"]["0"]["n"] == 20
    assert {"metrics", "reference", "n"} == summary["samples"]["classes"]["1"].keys()
    entries = {key: entry for key, entry in summary.items() if key.startswith("samples-")}
    one = next(entry for entry in entries.values() if entry["label"] == 1)
    assert (one["n"], one["metrics"]["frechet_distance"]["n"], "classes" in one) == (10, 10, False)
    assert any("condition" in entry for entry in entries.values())
    assert len(list(Path("moons").glob("comparison*condition*.csv")) + list(Path("moons").glob("comparison.csv"))) == 1
    main(["report", "run=moons", "-q"])
    assert "Samples by class" in Path("moons/report.html").read_text()
    for given, message in (
        (["label=7"], "label is 7, expected 0 to 1"),
        (["label=1", "n=30"], "n is 30 but there are 17 held-out samples of class 1: give n=17 or less"),
        (["condition=gone.npz"], "condition=gone.npz does not exist"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", *quick, *given])
        assert message in capsys.readouterr().err
