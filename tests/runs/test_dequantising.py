"""Training a run's dequantisation: what is written, when, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from scoresde.cli import conf_dir
from scoresde.likelihood import Variational
from scoresde.options.errors import ConfigError
from scoresde.runs import dequantise as dequantising
from scoresde.runs.dequantise import FILE, dequantise
from scoresde.runs.directory import Run
from scoresde.runs.likelihood import likelihood
from scoresde.runs.train import train
from tests.problems import Once

pytestmark = pytest.mark.slow

SMALL = ["network=mlp", "network.width=32", "network.blocks=1", "network.embedding.dim=8", "training.batch_size=64"]
AFTER = ["evaluation.samples=0", "evaluation.likelihood=0"]
FEW = ["training.steps=150", "training.dequantise=false"]
QUICK = [
    "steps=100",
    "lr=0.01",
    "batch_size=32",
    "couplings=1",
    "width=8",
    "blocks=0",
    "judge=180",
    "tol=0.01",
    "progress=false",
]


def config(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        made = OmegaConf.to_container(compose(config_name=command, overrides=list(overrides)), resolve=False)
    assert isinstance(made, dict)
    return OmegaConf.create({k: v for k, v in made.items() if k not in ("hydra", "resume", "runs", "name")})


@pytest.fixture(scope="module")
def trained(once: Once) -> Path:
    """Two pixels of three levels, in whose cells the density is high in the middle, as they are not dequantised."""

    def make(folder: Path) -> None:
        np.savez(folder / "x.npz", x=np.random.default_rng(0).choice(3, (1000, 2), p=[0.4, 0.2, 0.4]))
        data = ["data=npz", f"data.path={folder / 'x.npz'}", "data.levels=3"]
        train(Run(folder / "run", config("train", *data, *SMALL, *AFTER, *FEW)), None, progress=False)

    return once("pixels", make) / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(trained, tmp_path / "run"))


def made(run: Run, *changes: str) -> Any:
    return dequantise(run, run.model(), run.data(), config("dequantise", "run=x", *QUICK, *changes))


def listing(run: Run) -> list[str]:
    return sorted(str(p) for p in run.directory.rglob("*"))


def test_it_is_written_and_used(run: Run) -> None:
    entry, path = made(run)
    assert path == run.directory / FILE
    assert entry["gain"] == pytest.approx(entry["uniform"] - entry["variational"])
    assert entry["gain"] > entry["stderr"] > 0
    assert entry["n"] == 180
    q = Variational(path)
    assert (q.flow.shape, q.flow.levels, q.flow.width) == ((2,), 3, 8)
    # On data that neither of the two has seen.
    values = []
    for chosen in ("uniform", "variational"):
        options = config("likelihood", "run=x", f"dequantisation={chosen}", "tol=0.1", "divergence=exact")
        run.config.evaluation.dequantisation = options.dequantisation
        run.config.evaluation.divergence = options.divergence
        values.append(likelihood(run, run.model(), run.data(), "test", None, options, progress=False))
    assert [v["dequantisation"] for v in values] == ["uniform", "variational"]
    assert values[1]["bits_per_dim"] < values[0]["bits_per_dim"]
    assert values[1]["reused"] == 0
    # The same again is the same to the bit.
    again, _ = made(run)
    assert again == entry
    assert Variational(path).digest == q.digest


def test_what_is_no_better_is_not_written(run: Run) -> None:
    before = listing(run)
    entry, path = made(run, "steps=1", "lr=1e-9")  # uniform still
    assert path is None
    assert abs(entry["gain"]) < 1e-4  # float32 in training
    assert listing(run) == before


def test_an_interrupted_one_leaves_what_was_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.directory / FILE).write_bytes(b"an earlier one")
    before = listing(run)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(dequantising, "bits_per_dim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(run, "steps=2")
    assert (run.directory / FILE).read_bytes() == b"an earlier one"
    assert listing(run) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps=0", "steps is 0, expected an integer of at least 1"),
        ("judge=3", "judge is 3, expected an integer of at least 8"),
        ("lr=0", "lr is 0, expected a positive number"),
        ("level=nan", "level is nan, expected a positive number"),
        ("tol=-1", "tol is -1, expected a positive number or null"),
        ("width=0", "width is 0, expected an integer of at least 1"),
        ("bins=1.5", "bins is 1.5, expected an integer of at least 1"),
    ],
)
def test_options_that_are_refused(run: Run, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(run, change)


def test_data_that_are_refused(run: Run, tmp_path: Path) -> None:
    options = config("dequantise", "run=x", *QUICK)
    model = run.model()
    continuous = config("train", "data=two_moons", *SMALL)
    with pytest.raises(ConfigError, match="two_moons is continuous: only discrete data are dequantised"):
        dequantise(run, model, Run(tmp_path, continuous).data(), options)
    few = run.data()
    object.__setattr__(few, "train", few.train[:30])
    with pytest.raises(ConfigError, match="has 30 training samples, expected at least 40"):
        dequantise(run, model, few, options)


def test_a_model_with_classes(run: Run, tmp_path: Path) -> None:
    """The labels go with the images that they are of."""
    labelled = Run(
        tmp_path / "classes",
        config("train", "data=digits", *SMALL, *AFTER, "network.num_classes=10", "training.steps=5"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        train(labelled, None, progress=False)
    data, model, seen = labelled.data(), labelled.model(), []
    assert data.train_labels is not None
    known = {tuple(x.flatten().tolist()): int(y) for x, y in zip(data.train, data.train_labels, strict=True)}
    real, network = data.transform.encode, model.network.forward

    def encode(raw: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append([known[tuple(x.flatten().tolist())] for x in raw])
        return real(raw, *args, **kwargs)

    def forward(x: Any, c_noise: Any, labels: Any = None) -> Any:
        if len(x) == 32:
            assert labels.tolist() == seen[-1]
        return network(x, c_noise, labels=labels)

    object.__setattr__(data.transform, "encode", encode)
    model.network.forward = forward  # type: ignore[method-assign]
    dequantise(labelled, model, data, config("dequantise", "run=x", *QUICK, "steps=2", "judge=8", "tol=5"))
    assert len(seen) >= 4
