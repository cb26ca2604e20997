"""A run directory with npz data, whose file and configuration then change."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.data import DataInfo
from scoresde.likelihood import log_likelihood
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.sampling import Heun, KarrasGrid, Sampler
from tests.problems import Once

pytestmark = pytest.mark.slow

SETTINGS = [
    "data=npz",
    "network=mlp",
    "network.width=8",
    "network.blocks=1",
    "network.embedding.dim=8",
    "training.steps=8",
    "training.warmup=2",
    "training.batch_size=16",
    "training.checkpoint_every=4",
    "sampler=heun",
    "sampler.grid.steps=3",
    "evaluation.samples=0",
    "evaluation.likelihood=0",
    "evaluation.pictures=false",
    "progress=false",
]


def scoresde_command(folder: Path, *arguments: str) -> SimpleNamespace:
    """The status and the errors of a command in a folder; in this process, whose imports are done."""
    said, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.chdir(folder)
        patch.setenv("ACCELERATE_USE_CPU", "true")
        try:
            main(list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
    return SimpleNamespace(returncode=status, stderr=said.getvalue())


def points(scale: float = 3.0, n: int = 60, width: int = 3) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (scale * generator.standard_normal((n, width)) + 7.0).astype(np.float32)


@pytest.fixture(scope="module")
def trained(once: Once) -> Path:
    def make(folder: Path) -> None:
        np.savez(folder / "points.npz", x=points())
        done = scoresde_command(folder, "train", *SETTINGS, "data.path=points.npz", "name=run", "runs=.")
        assert done.returncode == 0, done.stderr

    return once("points", make)


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(copied)
    return copied


def edit(run: Path, old: str, new: str) -> None:
    file = run / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_the_facts_about_data_survive_a_file() -> None:
    from scoresde.data import digits

    info = DataInfo.of(digits())
    again = DataInfo.from_plain(json.loads(json.dumps(info.to_plain())))
    assert again == info
    assert again.shape == (1, 8, 8)
    assert again.num_classes == 10


@pytest.mark.parametrize(
    ("key", "value"), [("shape", []), ("shape", [0]), ("shape", "8"), ("transform", None), ("num_classes", "ten")]
)
def test_facts_of_another_kind_are_refused(key: str, value: Any) -> None:
    from scoresde.data import digits

    with pytest.raises(ValueError, match=key):
        DataInfo.from_plain({**DataInfo.of(digits()).to_plain(), key: value})


def test_a_run_is_sampled_without_its_data_from_another_folder(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "run", tmp_path / "moved")
    (folder / "points.npz").unlink()
    done = scoresde_command(tmp_path, "sample", "run=moved", "n=50", "name=drawn", "progress=false")
    assert done.returncode == 0, done.stderr
    drawn = np.load(tmp_path / "moved" / "samples" / "drawn.npz")["x"]
    # In the units of the file: a network of eight steps knows their mean and scale from its preconditioning alone.
    assert abs(drawn.mean() - 7.0) < 2.0
    model = scoresde.load(tmp_path / "moved")
    info = Run.open(tmp_path / "moved").info()
    assert info is not None
    out = Sampler(Heun(), KarrasGrid(3))(model, (50, 3), seed=0)
    assert model.transform == info.transform
    assert torch.equal(torch.from_numpy(drawn), out.x)  # the model brings its samples to the data's units itself


def test_samples_are_decoded_as_in_training_after_the_file_has_changed(folder: Path) -> None:
    before = scoresde_command(folder, "sample", "run=run", "n=8", "name=a", "progress=false")
    np.savez(folder / "points.npz", x=100 * points())
    after = scoresde_command(folder, "sample", "run=run", "n=8", "name=b", "progress=false")
    assert before.returncode == after.returncode == 0, before.stderr + after.stderr
    a, b = (np.load(folder / "run" / "samples" / f"{name}.npz")["x"] for name in "ab")
    assert (a == b).all()
    run = Run.open(folder / "run")
    info = run.info()
    assert info is not None
    assert run.data().transform == info.transform


def test_training_does_not_go_on_with_other_data_unless_asked(folder: Path) -> None:
    np.savez(folder / "points.npz", x=points(4.0))
    more = ("train", "run=run", "training.steps=12", "progress=false")
    done = scoresde_command(folder, *more)
    assert done.returncode == 1
    assert "are not those that the run was trained on" in done.stderr
    assert "accept=[data]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = scoresde_command(folder, *more, "accept=[data]")
    assert done.returncode == 0, done.stderr


def test_data_of_another_shape_are_refused(folder: Path) -> None:
    np.savez(folder / "points.npz", x=points(width=4))
    with pytest.raises(ConfigError, match=r"shape \(4,\), but the run was trained on shape \(3,\)"):
        Run.open("run").data()


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("beta_max: 20.0", "beta_max: 25.0", "sde.beta_max"),
        ("sigma_data: null", "sigma_data: 0.3", "preconditioning.sigma_data"),
        ("max_frequency: 3.0", "max_frequency: 2.0", "network.embedding.max_frequency"),
    ],
)
def test_a_configuration_that_was_edited_after_training_is_refused(folder: Path, old: str, new: str, key: str) -> None:
    edit(folder / "run", old, new)
    with pytest.raises(ConfigError, match=rf"^{key} is .*was trained with .*accept=\[{key}\]") as error:
        scoresde.load("run")
    assert "\n" not in str(error.value)
    scoresde.load("run", accept=[key])
    scoresde.load("run", accept=[key.partition(".")[0]])
    done = scoresde_command(folder, "sample", "run=run", "n=4", f"accept=[{key}]", "progress=false")
    assert done.returncode == 0, done.stderr
    # Nor does training go on from its checkpoint.
    (folder / "run" / "model.safetensors").unlink()
    done = scoresde_command(folder, "train", "run=run", "training.steps=12", "progress=false")
    assert done.returncode == 1
    assert key in done.stderr


def test_a_transform_that_was_edited_after_training_is_refused(folder: Path) -> None:
    file = folder / "run" / "data.json"
    plain = json.loads(file.read_text())
    plain["fingerprint"] = "0" * 16
    file.write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"^data.fingerprint is .*accept=\[data.fingerprint\]"):
        scoresde.load("run")
    file.write_text("{")
    with pytest.raises(ConfigError, match="data.json is damaged"):
        scoresde.load("run")


def test_a_run_of_an_older_version_is_read_as_before(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = scoresde.load("run")
    file = folder / "run" / "model.safetensors"
    save_file(load_file(file), file, {"format": "scoresde-model-1", "step": "8"})
    (folder / "run" / "data.json").unlink()
    edit(folder / "run", "beta_max: 20.0", "beta_max: 20.0")
    again = scoresde.load("run")
    x = torch.randn(4, 3)
    assert torch.equal(model.denoise(x, torch.tensor(0.5)), again.denoise(x, torch.tensor(0.5)))
    assert Run.open("run").info() is None


def test_checkpoints_say_what_they_were_trained_with(folder: Path) -> None:
    from scoresde.training.checkpoint import latest_checkpoint, load_checkpoint

    path = latest_checkpoint(folder / "run" / "checkpoints")
    assert path is not None
    assert load_checkpoint(path)["trained_with"] == Run.open("run").provenance()


def test_a_loaded_model_of_continuous_data_has_their_units(folder: Path) -> None:
    run, x = Run.open("run"), torch.from_numpy(points()).double()
    bare, model, transform = run.model(), scoresde.load("run"), run.data().transform
    assert model.transform == transform
    found, expected = log_likelihood(model, x[:4]), log_likelihood(bare, transform.encode(x[:4], dtype=torch.float64))
    assert torch.allclose(found.log_prob, expected.log_prob + transform.log_det(run.data().shape), atol=1e-9)
    sampler = Sampler(Heun(), KarrasGrid(4))
    assert torch.equal(sampler(model, (3, 3)).x, transform.decode(sampler(bare, (3, 3)).x))
    (folder / "run" / "data.json").unlink()  # as in the directory of an older version
    assert scoresde.load("run").transform is None
