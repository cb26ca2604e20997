"""Runs of discrete chains: the whole way from a configuration to a report, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import scoresde
from scoresde.chains import DiscreteChainModel
from scoresde.data import Discrete
from scoresde.options.errors import ConfigError
from scoresde.runs.chains import check_sampler, score_model
from scoresde.runs.directory import Run, load_chain
from scoresde.runs.evaluate import evaluate
from scoresde.runs.sample import Draw, sample
from scoresde.runs.train import train
from scoresde.sampling import ChainSampler, Euler, Sampler, UniformTime
from scoresde.sde import ErasureVPSDE
from scoresde.storage.tensors import load_tensors
from tests.runs.test_train import config

pytestmark = pytest.mark.slow  # trains runs

SMALL = [
    "experiment=diffusion2015/heartbeat",
    "+data.n_train=200",
    "+data.n_test=40",
    "sde.betas.steps=8",
    "network.width=16",
    "network.blocks=1",
    "network.embedding.dim=8",
    "training.steps=10",
    "training.batch_size=32",
    "training.checkpoint_every=5",
    "evaluation.samples=12",
    "evaluation.likelihood=6",
]


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("chains") / "heartbeat"
    train(Run(directory, config(*SMALL)), progress=False)
    return Run.open(directory)


def test_the_whole_way(run: Run) -> None:
    summary = run.summary()
    assert summary.finished
    assert summary.training["steps"] == 10
    entry = summary.likelihood
    assert entry["chain"] == "BinomialChain of 8 steps"
    assert entry["n"] == 6
    assert entry["nats"] == pytest.approx(-20 * math.log(2) * (entry["bits_per_dim"] or math.nan))
    assert summary.samples["nfe"] == 8
    assert {figure["file"] for figure in run.pictures()} >= {"samples/chain.png", "samples/samples.png"}
    page = (run.directory / "report.html").read_text()
    assert "Diffusion model of" in page
    assert ": chain <" in page
    info = run.info()
    assert info is not None
    assert info.transform == Discrete(2, -0.5, 1.5)  # under which the states are the data
    json.loads((run.directory / "summary.json").read_text())


def test_it_is_loaded_as_a_chain(run: Run) -> None:
    model = load_chain(run.directory)
    assert isinstance(model, DiscreteChainModel)
    assert model.info is not None
    assert model.shape == (20,)
    samples, cost = sample(run, model, run.data(), Draw(ChainSampler(4), 9), name="nine", progress=False)
    assert samples.shape == (9, 20)
    assert set(samples.unique().tolist()) <= {0, 1}
    assert cost["nfe"] == 4
    assert scoresde.load_chain is load_chain
    with pytest.raises(ConfigError, match=r"load_chain is for others.* needs a score"):
        scoresde.load(run.directory)
    with pytest.raises(ConfigError, match="compare needs a score, and this run has a BinomialChain"):
        score_model(model, "scoresde compare")
    with pytest.raises(ConfigError, match="no sampler of score models can draw"):
        check_sampler(model, Sampler(Euler(), UniformTime(4)))
    with pytest.raises(ConfigError, match="likelihood=5, the log-density of samples, needs a score"):
        evaluate(run, model, run.data(), Draw(ChainSampler(), 12), likelihood=5, progress=False)


def test_a_training_that_stopped_ends_with_the_same_weights(run: Run, tmp_path: Path) -> None:
    whole = [*SMALL, "evaluation.samples=0", "evaluation.likelihood=0", "evaluation.pictures=false"]
    train(Run(tmp_path / "run", config(*whole)), progress=False)
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.pt"))) == 2
    (tmp_path / "run" / "checkpoints" / "step-000000010.pt").unlink()
    (tmp_path / "run" / "model.safetensors").unlink()
    resumed = Run.open(tmp_path / "run")
    train(resumed, progress=False)
    ours, theirs = load_tensors(resumed.model_path), load_tensors(run.model_path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_classes_have_a_channel_for_each_state(tmp_path: Path) -> None:
    overrides = [o for o in SMALL if not o.startswith(("sde", "+data"))]
    chain = ["sde=categorical", "sde.betas.steps=4", "sde.kind=absorbing"]
    made = config(*overrides, *chain, "data=digits", "network.num_classes=10")
    train(Run(tmp_path / "digits", made), progress=False)
    model = load_chain(tmp_path / "digits")
    assert (model.chain.states, model.shape, model.classes) == (18, (1, 8, 8), 10)
    assert Run.open(tmp_path / "digits").summary().likelihood["conditional"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["sde=binomial"],
            r"sde is BinomialChain, .* needs a ChainLoss as objective, a ChainSampler as sampler, no",
        ),
        ([*SMALL, "training.dequantise=true"], r"it needs training\.dequantise=false"),
        ([*SMALL, "evaluation.sample_likelihood=5"], r"it needs evaluation\.sample_likelihood=0"),
        ([*SMALL[:1], "data=digits"], "digits is of 17 levels, and BinomialChain takes binary data"),
        ([*SMALL[:1], "data=swiss_roll"], "swiss_roll is continuous"),
        ([*SMALL, "evaluation.chain_draws=9"], r"evaluation\.chain_draws is for .* and the run's BinomialChain has"),
        ([*SMALL, "evaluation.tol=0.1"], r"evaluation\.tol is for the likelihood under an SDE"),
        (["data=swiss_roll", "network=mlp", "objective=chain"], "objective is for a chain of discrete states"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    made = Run(tmp_path / "run", OmegaConf.create(config(*overrides)))
    with pytest.raises(ConfigError, match=message):
        train(made, progress=False)
    assert not made.directory.exists()


def test_rates_that_are_learned_are_kept_with_the_network(tmp_path: Path) -> None:
    small = [o for o in SMALL if o.startswith(("network", "training", "+data"))]
    made = config("experiment=diffusion2015/swiss_roll", *small, "sde.train_steps=6", "sampler.grid.steps=5",
                  "evaluation.samples=12", "evaluation.likelihood=2", "optimizer.lr=0.1",
                  "training.ema.relative_std=0.2")  # fmt: skip
    train(Run(tmp_path / "roll", made), progress=False)
    assert "samples/chain.png" in [p["file"] for p in json.loads((tmp_path / "roll" / "pictures.json").read_text())]
    model = scoresde.load(tmp_path / "roll")
    assert Run.open(tmp_path / "roll").make("sampler").grid.train_steps == 6  # as the chain has
    assert isinstance(model.sde, ErasureVPSDE)
    assert model.sde.rates is not None
    stored = load_tensors(Run.open(tmp_path / "roll").model_path)
    assert torch.equal(model.sde.rates.logits, stored["network.rates.logits"])
    start = ErasureVPSDE(6, 1e-4).betas
    assert model.sde.betas[0] == start[0]
    assert max(abs(a - b) for a, b in zip(model.sde.betas[1:], start[1:], strict=True)) > 1e-3
    (tmp_path / "roll" / "checkpoints" / "step-000000010.pt").unlink()
    (tmp_path / "roll" / "model.safetensors").unlink()
    resumed = Run.open(tmp_path / "roll")
    train(resumed, progress=False)
    assert all(torch.equal(value, stored[name]) for name, value in load_tensors(resumed.model_path).items())


def test_the_experiment_of_digits_takes_ten_steps(tmp_path: Path) -> None:
    made = config(
        "experiment=diffusion2015/digits", "network=mlp", "network.width=16", "network.blocks=1", "training.steps=10",
        "training.batch_size=16", "sde.train_steps=12", "sampler.grid.steps=11",
        "evaluation.samples=0", "evaluation.likelihood=0", "evaluation.pictures=false", "network.learn_variance=true",
    )  # fmt: skip
    train(Run(tmp_path / "digits", made), progress=False)
    assert Run.open(tmp_path / "digits").summary().training["steps"] == 10
    assert scoresde.load(tmp_path / "digits").learns_variance
