"""`scoresde evaluate` by published features and against statistics in a file, with a tiny network of their kind."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from scoresde.cli import main
from scoresde.data import DataInfo
from scoresde.metrics import DINOv2Features, evaluate_samples
from scoresde.metrics.vision_transformer import TransformerShape, VisionTransformer
from scoresde.runs.directory import Run
from scoresde.runs.sample_files import stored_samples
from scoresde.training.moments import data_statistics

pytestmark = pytest.mark.slow

CONFIG = """
data: {_target_: scoresde.data.digits}
sde: {_target_: scoresde.sde.VPSDE}
network: {_target_: scoresde.networks.MLP, width: 16, blocks: 1, num_classes: null}
preconditioning: {_target_: scoresde.preconditioning.EDMPreconditioning}
objective: {_target_: scoresde.objectives.DenoisingScoreMatching}
optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 0.001}
training: {_target_: scoresde.training.Training, steps: 5, seed: 0}
sampler:
  _target_: scoresde.sampling.Sampler
  solver: {_target_: scoresde.sampling.DDIM}
  grid: {_target_: scoresde.sampling.UniformLogSNR, steps: 3}
evaluation: {samples: 10}
"""
TINY = ["features=dinov2", "features.weights=tiny.safetensors", "features.heads=2", "progress=false"]
WIDTH = 6


def made(directory: Path, data: str) -> None:
    config = OmegaConf.create(CONFIG)
    config.data._target_ = f"scoresde.data.{data}"
    run = Run(directory, config)
    torch.manual_seed(0)
    held = run.data()
    run.write_info(DataInfo.of(held))
    run.write_config()
    run.save_model(run.new_model(held.shape, data_statistics(held, dequantise=True)), step=5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORESDE_WEIGHTS", str(tmp_path / "weights"))
    made(tmp_path / "one", "digits")
    network = VisionTransformer(TransformerShape(WIDTH, 1, 2, 14, 16, 8, scaled=True))
    generator = torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        value.add_(0.2 * torch.randn(value.shape, generator=generator))
    save_file(network.state_dict(), "tiny.safetensors")


def evaluated(*arguments: str) -> dict[str, Any]:
    """The entries that a command adds to the summary."""
    before = summary()
    main(["evaluate", "run=one", *arguments])
    return {key: entry for key, entry in summary().items() if entry != before.get(key)}


def summary() -> dict[str, Any]:
    path = Path("one/summary.json")
    return json.loads(path.read_text()) if path.exists() else {}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = sorted(map(str, Path().rglob("*")))
    with pytest.raises(SystemExit):
        main(["evaluate", "run=one", "progress=false", *arguments])
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert sorted(map(str, Path().rglob("*"))) == before
    return error


def test_features_of_held_out_images(capsys: pytest.CaptureFixture[str]) -> None:
    own = evaluated("n=40", "progress=false")
    assert set(own) == {"samples", "reference"}
    found = evaluated("n=40", *TINY)
    assert set(found) == {"samples-dinov2"}  # beside those of values, which stay
    entry = found["samples-dinov2"]
    assert "against 40 held-out, by dinov2(weights=" in capsys.readouterr().out
    features = DINOv2Features("tiny.safetensors", heads=2)
    assert entry["features"] == repr(features)
    assert own["samples"]["metrics"].keys() == entry["metrics"].keys()
    # The samples of the run's own evaluation, and the same held-out images.
    data = Run.open("one").data()
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:40]
    drawn = stored_samples(Path("one/samples/samples.npz"))
    assert drawn is not None
    sets = [x.float() * 255 / 16 for x in (drawn.read(), data.test[order])]
    expected = evaluate_samples(sets[0], sets[1], features)
    for name in ("frechet_distance", "mmd_polynomial", "sliced_wasserstein"):
        assert entry["metrics"][name]["value"] == pytest.approx(expected[name].value, rel=1e-4)
        assert entry["metrics"][name]["n"] == 40
        assert entry["metrics"][name] != own["samples"]["metrics"][name]
    # Of values, whatever the features.
    for name in ("noise_left", "copies", "nearer_than_held_out"):
        assert entry["metrics"][name] == own["samples"]["metrics"][name]
    assert sorted(path.name for path in Path("one/samples").glob("*.npz")) == ["samples.npz"]
    assert evaluated("n=40", *TINY) == {}
    assert "samples-dinov2 in one/summary.json, there already" in capsys.readouterr().out


def test_more_samples_than_held_out_images_against_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "run=one", "n=500", "shard=100", "progress=false"])
    files = sorted(Path("one/samples").rglob("*.npz"))
    capsys.readouterr()
    (found,) = evaluated("n=500", *TINY, "save_reference=train.npz", "reference=./train.npz").items()
    out = capsys.readouterr().out
    key, entry = found
    assert key.startswith("samples-n500-dinov2-train-") or "-dinov2-train-" in key
    assert "train.npz: dinov2(weights=" in out
    assert "of 1437 samples of digits" in out
    assert f"of 1437, {WIDTH} features" in out
    assert sorted(Path("one/samples").rglob("*.npz")) == files  # those of `sample` were taken
    assert list(entry["metrics"]) == ["frechet_to_reference", "frechet_infinity", "kernel_to_reference"]
    assert [metric["n"] for metric in entry["metrics"].values()] == [500, 500, 500]
    # By other means: numpy's moments and scipy's root of a matrix.
    features = DINOv2Features("tiny.safetensors", heads=2)
    drawn = stored_samples(files[0].parent)
    assert drawn is not None
    sets = [features(x.float() * 255 / 16).double().numpy() for x in (drawn.read(), Run.open("one").data().train[:])]
    with np.load("train.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["mu"], sets[1].mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(file["sigma"], np.cov(sets[1], rowvar=False), rtol=1e-3, atol=1e-6)
        assert file["features"].shape == (1437, WIDTH)
    (mean, cov), (other, of) = [(x.mean(0), np.cov(x, rowvar=False)) for x in sets]
    root = scipy.linalg.sqrtm(cov @ of).real
    distance = ((mean - other) ** 2).sum() + np.trace(cov + of - 2 * root)
    assert entry["metrics"]["frechet_to_reference"]["value"] == pytest.approx(distance, rel=1e-3)
    limit = entry["metrics"]["frechet_infinity"]
    assert limit["value"] == pytest.approx(distance, abs=4 * limit["stderr"])
    assert entry["against_n"] == 1437
    main(["report", "run=one"])
    assert key in Path("one/report.html").read_text()


def test_what_few_samples_and_a_foreign_file_leave_out(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    np.savez("edm.npz", mu=np.zeros(64), sigma=np.eye(64))
    (entry,) = evaluated("n=20", "reference=edm.npz", "progress=false").values()
    assert list(entry["metrics"]) == ["frechet_to_reference"]
    assert entry["features"] is None
    out = capsys.readouterr().out
    assert "of an unknown number, 64 features" in out
    assert "frechet_infinity is left out: it takes n=512 or more" in out
    assert "kernel_to_reference is left out: the reference has no features" in out
    assert "n=20 samples of 64 features are too few to know their covariance" in caplog.text


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("five.npz", mu=np.zeros(5), sigma=np.eye(5))
    np.savez("kind.npz", mu=np.zeros(WIDTH), sigma=np.eye(WIDTH), kind="clip(weights=0)")
    np.savez("bad.npz", mu=np.zeros(WIDTH), sigma=-np.eye(WIDTH))
    cases = {
        ("features=inception",): "need its weights, which are not in .*or give features.weights=FILE",
        ("features=inception", "features.weights=none.pth"): "features.weights=none.pth is no file: download https",
        (
            "features=inception",
            "features.weights=tiny.safetensors",
        ): "is not of a FIDInception: its tensor 'cls_token' is unknown",
        ("features=clip", "features.weights=tiny.safetensors"): "no CLIP of transformers or open_clip",
        ("features=dinov3",): "expected one of clip, dinov2, inception",
        (*TINY, "pca=3"): "pca=3 is of values: leave out features, or pca",
        (*TINY, "n=400"): "n is 400 but there are 360 held-out samples",
        (*TINY, "reference=none.npz"): "reference=none.npz does not exist",
        (*TINY, "reference=five.npz"): f"is of 5 features, and there are {WIDTH} features by dinov2",
        ("reference=five.npz",): "is of 5 features, and there are 64 values of a sample: give features=inception",
        (*TINY, "reference=kind.npz"): r"is of clip\(weights=0\), and the features are dinov2",
        (*TINY, "reference=bad.npz"): "not positive semi-definite",
        (*TINY, "reference=tiny.safetensors"): "cannot be read as an npz file of numbers",
        ("reference=five.npz", "likelihood=8"): "leave out reference, or likelihood",
        ("save_reference=a.pkl",): "a name that ends in .npz",
        ("save_reference=none/a.npz",): "there is no folder none",
    }
    for arguments, message in cases.items():
        assert re.search(message, refused(capsys, *arguments)), arguments


def test_samplers_are_compared_by_features(capsys: pytest.CaptureFixture[str]) -> None:
    cells = ["run=one", "samplers=[ddim]", "steps=[3]", "n=40", "tol=1e-2"]
    main(["compare", *cells, *TINY])
    assert "with 40 samples on each side" in capsys.readouterr().out
    by_features = pd.read_csv("one/comparison-dinov2.csv").iloc[0]
    main(["compare", *cells, "progress=false"])
    of_values = pd.read_csv("one/comparison.csv").iloc[0]
    assert by_features["error"] == of_values["error"]
    assert by_features["noise_left"] == of_values["noise_left"]
    (entry,) = evaluated("n=40", "sampler=ddim", "sampler.grid.steps=3", *TINY).values()
    for name in ("frechet_distance", "sliced_wasserstein"):
        assert by_features[name] == pytest.approx(entry["metrics"][name]["value"], rel=1e-4)
        assert by_features[name] != of_values[name]
    with pytest.raises(SystemExit):
        main(["compare", *cells, "features=inception", "progress=false"])
    assert "give features.weights=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(("data", "kind"), [("two_moons", r"continuous values of shape \(2,\)")])
def test_data_that_are_no_images(data: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("one")
    made(Path("one"), data)
    error = refused(capsys, "features=inception")
    assert re.search(f"features=inception are of images .* are {kind}", error)
