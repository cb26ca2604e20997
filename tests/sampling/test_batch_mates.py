"""A sample for which the model is not finite: the values, costs and statuses of its batch mates stay as they are."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from scoresde.cli import conf_dir
from scoresde.config.targets import instantiate
from scoresde.data import Affine
from scoresde.likelihood import Exact, LikelihoodError, log_likelihood
from scoresde.numerics.ode import Status
from scoresde.sampling import (
    Adaptive,
    AdaptiveSDE,
    Euler,
    NonFiniteError,
    Sampler,
    StoppedError,
    TorchSDE,
    UniformLogSNR,
    UniformTime,
)
from scoresde.score import ScoreModel
from scoresde.sde import VPSDE
from tests.problems import blobs, generator

F64 = torch.float64
BAD, OTHERS = 2, [0, 1, 3, 4]
NAMES = sorted(path.stem for path in (conf_dir() / "sampler").glob("*.yaml") if path.stem != "tuned")
# Their batches become smaller on the way, or hold several states of a sample, which changes the rounding of sums.
REGROUPED = ("adaptive_sde", "bosh3", "dop853", "dopri5", "picard", "tsit5")


class Faulty(ScoreModel):
    """A mixture, but for samples with label 1 a value that is not finite below a time, and for all far from 0.

    Args:
        value: NaN or an infinity.
        below: The time.
    """

    def __init__(self, value: float = torch.nan, below: float = 0.3) -> None:
        super().__init__(VPSDE())
        self.inner = blobs(self.sde, (3,), 3)
        self.statistics = self.inner.statistics
        self.value, self.below = value, below

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        bad = x.flatten(1).abs().amax(1) > 100
        if "labels" in cond:
            bad = bad | ((cond["labels"] == 1) & (t < self.below))
        clean: Tensor = self.inner.denoise(x, t)
        return torch.where(bad[:, None], self.value, clean)


def region(x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The start of the bad sample lies where the model is not finite."""
    x = x.clone()
    x[BAD] = 1e3
    return x, {}


def late(x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The model ceases to be finite for the bad sample on its way."""
    return x, {"labels": (torch.arange(len(x)) == BAD).long()}


def starts() -> Tensor:
    return torch.randn(5, 3, generator=generator(5), dtype=F64)


@lru_cache
def preset(name: str) -> Sampler:
    """A sampler of `conf/sampler` as the command composes it, on a coarse grid."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose(config_name="sample", overrides=["run=nowhere", f"sampler={name}", "sampler.grid.steps=6"])
    made: Sampler = instantiate(config, "sampler")
    return made


def failed(sampler: Sampler, model: ScoreModel, x: Tensor, **options: Any) -> NonFiniteError:
    with pytest.raises(NonFiniteError, match="^1 of 5 samples are not finite") as error:
        sampler(model, x_init=x, seed=3, **options)
    return error.value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("fault", "value"), [(region, torch.nan), (late, torch.inf)], ids=["region", "late"])
def test_the_others_are_as_without_it(
    name: str, fault: Callable[[Tensor], tuple[Tensor, dict[str, Any]]], value: float
) -> None:
    model, sampler = Faulty(value), preset(name)
    x, cond = fault(starts())
    # Conditions decide whether `default` knows the mean.
    good = sampler(model, x_init=starts(), seed=3, **{key: torch.zeros_like(label) for key, label in cond.items()})
    for size in (5, 2):
        error = failed(sampler, model, x, batch_size=size, **cond)
        assert error.x is not None
        found, wanted = error.x[OTHERS], good.x[OTHERS]
        if size == 5 and name not in (*REGROUPED, "scipy"):
            assert torch.equal(found, wanted)
        # scipy has one step size for a batch.
        torch.testing.assert_close(found, wanted, rtol=0, atol=3e-3 if name == "scipy" else 1e-9)
        if good.status is None:
            assert error.x[BAD].isfinite().all().item() is False
            continue
        # A solver with a step size for every sample keeps the last finite state, and tells where it stopped.
        assert error.report is not None
        assert error.report.status is not None
        assert error.report.reached is not None
        assert good.nfe_per_sample is not None
        assert good.reached is not None
        assert bool(error.x.isfinite().all())
        assert error.report.status.tolist() == [Status.NOT_FINITE if i == BAD else Status.ARRIVED for i in range(5)]
        assert torch.equal(error.report.reached[OTHERS], good.reached[OTHERS])
        assert torch.equal(error.report.nfe[OTHERS] + sampler.denoise, good.nfe_per_sample[OTHERS])
        assert float(error.report.reached[BAD]) == pytest.approx(1.0 if fault is region else 0.3, abs=0.05)


@pytest.mark.parametrize("method", ["euler", "srk"])
@pytest.mark.parametrize(("fault", "value"), [(region, torch.nan), (late, torch.inf)], ids=["region", "late"])
def test_steps_that_a_batch_shares_go_on_for_the_others(
    method: str, fault: Callable[[Tensor], tuple[Tensor, dict[str, Any]]], value: float
) -> None:
    """torchsde's adaptive steps, whose error estimate would be NaN for all."""
    model = Faulty(value)
    sampler = Sampler(TorchSDE(method, True, rtol=0.02, atol=0.02), UniformLogSNR(3))
    good = sampler(model, x_init=starts(), seed=3).x
    x, cond = fault(starts())
    found = failed(sampler, model, x, **cond).x
    assert found is not None
    assert found.isfinite().all(1).tolist() == [i != BAD for i in range(5)]
    # They have other steps, so that they differ by the tolerance.
    assert float((found - good)[OTHERS].abs().max()) < 0.15


@pytest.mark.parametrize("solver", [Adaptive(strict=True), AdaptiveSDE(strict=True)], ids=["ode", "sde"])
def test_an_exception_of_a_strict_solver_has_the_samples_of_all_chunks(solver: Adaptive | AdaptiveSDE) -> None:
    x, cond = late(starts())
    good = Sampler(solver, UniformTime(3))(Faulty(), x_init=starts(), seed=3).x
    for size in (5, 2):
        error = failed(Sampler(solver, UniformTime(3)), Faulty(), x, batch_size=size, **cond)
        assert error.x is not None
        torch.testing.assert_close(error.x[OTHERS], good[OTHERS], rtol=0, atol=1e-9)
    # One that stops for another reason.
    rough = Faulty(1e16)
    for size in (5, 2):
        with pytest.raises(StoppedError, match="^1 of 5 samples stopped on the way") as stopped:
            Sampler(solver, UniformTime(3))(rough, x_init=x, seed=3, batch_size=size, **cond)
        torch.testing.assert_close(stopped.value.x[OTHERS], good[OTHERS], rtol=0, atol=1e-9)
        assert stopped.value.report.status is not None
        assert stopped.value.report.status.bool().tolist() == [i == BAD for i in range(5)]


def test_samples_of_an_exception_are_in_the_units_of_the_data() -> None:
    model = Faulty()
    model.transform = Affine(10.0, 2.0)
    sampler = Sampler(Euler(), UniformTime(3))
    good = sampler(model, x_init=starts()).x
    x, cond = late(starts())
    found = failed(sampler, model, x, **cond).x
    assert found is not None
    assert torch.equal(found[OTHERS], good[OTHERS])
    assert float(good.mean()) > 5


@pytest.mark.parametrize(("value", "size"), [(torch.nan, 5), (torch.inf, 2), (torch.nan, 1)])
def test_likelihoods_of_the_others_are_as_without_it(value: float, size: int) -> None:
    model, x = Faulty(value, below=1.0), 0.5 * starts()
    labels = torch.zeros(5, dtype=torch.int64)
    good = log_likelihood(model, x, divergence=Exact(), tol=0.01, labels=labels, batch_size=size)
    for bad, cond in ((x.index_fill(0, torch.tensor([BAD]), 1e3), labels), (x, late(x)[1]["labels"])):
        with pytest.raises(LikelihoodError, match="for 1 of 5 samples, the first of them sample 2 ") as error:
            log_likelihood(model, bad, divergence=Exact(), tol=0.01, labels=cond, batch_size=size)
        found = error.value.result
        assert error.value.samples == [BAD]
        assert error.value.status[OTHERS].tolist() == [Status.ARRIVED] * 4
        assert bool(found.log_prob[BAD].isnan())
        for name in ("log_prob", "latent", "nfe", "stderr"):
            torch.testing.assert_close(
                getattr(found, name)[OTHERS], getattr(good, name)[OTHERS], rtol=0, atol=1e-9, msg=name
            )
