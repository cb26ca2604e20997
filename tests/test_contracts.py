"""What every solver, likelihood and bound promises, whatever it computes.

A result is a function of the seed and of a sample's index; a row has nothing to do with the others of its batch, and
keeps its conditions; the model's mode is as before, and no gradient is left; the state keeps its dtype.

A new sampler in `conf/sampler` is tested here by being there; a new likelihood or bound has a line in `DENSITIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from scoresde.chains import GaussianChainModel
from scoresde.cli import conf_dir
from scoresde.config.targets import instantiate
from scoresde.data import Discrete
from scoresde.information import (
    class_information,
    conditional_information,
    denoising_information,
    flipd,
    kl_divergence,
)
from scoresde.likelihood import (
    Auto,
    Exact,
    Hutchinson,
    LikelihoodError,
    Probing,
    TruncatedNormal,
    bits_per_dim,
    chain_bound,
    class_log_prob,
    compare_likelihoods,
    decode,
    differentiable_log_prob,
    discrete_elbo,
    elbo,
    encode,
    interpolate,
    log_likelihood,
    round_trip_error,
    solver_error,
)
from scoresde.sampling import Heun, KarrasGrid, Sampler
from scoresde.score import ScoreModel
from scoresde.sde import SDE, VPSDE
from scoresde.statistics import Statistics
from tests.problems import F64, gaussian, generator

N, SIZE = 5, 6
LABELS = torch.tensor([0, 1, 1, 0, 1])
LEVELS = Discrete(17)


class Classes(ScoreModel):
    """A Gaussian for each of two labels, with a parameter, and with noise where it is in the mode of training."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde, Statistics(torch.zeros(SIZE, dtype=F64), torch.tensor(0.7, dtype=F64)))
        means, variances = (0.5, (-0.4, 0.2, 0.1, 0.3, 0.5, -0.2)), (0.2, (0.6, 0.1, 0.3, 0.2, 0.1, 0.4))
        self.parts = nn.ModuleList([gaussian(sde, (SIZE,), m, v) for m, v in zip(means, variances, strict=True)])
        self.factor = nn.Parameter(torch.tensor(0.97, dtype=F64))
        self.dropout = nn.Dropout(0.5)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        a, b = (part.denoise(x, t) for part in self.parts)  # type: ignore[operator]
        chosen: Tensor = self.dropout(torch.where(cond["labels"][:, None] == 0, a, b))
        # One element depends on the other, so that probes differ.
        return self.factor.to(x) * (chosen + 0.05 * torch.sin(3 * chosen.flip(-1)))


@dataclass(frozen=True)
class Case:
    """A computation, called with a model and `x`, `labels`, `seed`, `first` and whatever else it takes.

    Attributes:
        call: Computation; its result is `(B, ...)`.
        random: Whether the result depends on the seed.
        chunks: Whether it takes `batch_size`.
        single: dtype of the result for a float32 state.
        tolerance: Largest difference that the rest of the batch makes.
        mode: Whether the model is put into the mode of evaluation.
        graph: Whether the result can be differentiated.
    """

    call: Callable[..., Tensor]
    random: bool = True
    chunks: bool = True
    single: torch.dtype = F64
    tolerance: float = 1e-8
    mode: bool = True
    graph: bool = False


NAMES = sorted(path.stem for path in (conf_dir() / "sampler").glob("*.yaml") if path.stem != "tuned")


@lru_cache
def preset(name: str) -> Sampler:
    """A sampler of `conf/sampler` as the command composes it, on a coarse grid."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose(config_name="sample", overrides=["run=nowhere", f"sampler={name}", "sampler.grid.steps=6"])
    made: Sampler = instantiate(config, "sampler")
    return made


def drawn(name: str, model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    return preset(name)(model, tuple(x.shape), dtype=x.dtype, **options).x


def started(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    return Sampler(Heun(), KarrasGrid(6))(model, x_init=x, **options).x


def with_density(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    found = Sampler(Heun(), KarrasGrid(6))(model, x_init=x, log_prob=True, tol=0.1, **options).log_prob
    assert found is not None
    return found


def density(divergence: Any, model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    out = log_likelihood(model, x, divergence=divergence, tol=0.1, **options)
    assert out.latent.dtype == x.dtype
    # With so rough steps some 10 nats, of which the tolerance of a difference is to be a part.
    return torch.stack([out.log_prob, out.stderr, out.solver_stderr.log1p()], 1)


def bits(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    pixels = LEVELS.decode(x.clamp(-1, 1))
    return bits_per_dim(model, pixels, LEVELS, tol=0.1, **options).bits


def without_seed(call: Callable[..., Tensor], model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    """For what has nothing random in it, and so neither a seed nor an index."""
    options.pop("seed", None)
    options.pop("first", None)
    return call(model, x, **options)


def bound(call: Callable[..., Any], model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    out = call(model, x, draws=3, **options)
    return torch.stack([out.value, out.stderr], 1)


def of_chain(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    out = chain_bound(GaussianChainModel(model, VPSDE().chain(20)), x, **options)
    return torch.stack([out.value, out.stderr], 1)


def by_class(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    """The densities under both labels, in the order of each row's own."""
    labels = options.pop("labels")
    every = class_log_prob(model, x, 2, tol=0.1, **options)
    return torch.where(labels[:, None] == 0, every, every.flip(1))


def denoised(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    out = denoising_information(model, x, draws=4, **options)
    return torch.cat((out.log_prob[:, None], out.excess, out.errors), 1)


def of_labels(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    """What the labels tell more than the other ones."""
    labels = options.pop("labels")
    out = conditional_information(model, x, {"labels": labels}, without={"labels": 1 - labels}, draws=4, **options)
    return torch.stack((out.nats, out.stderr), 1)


def of_classes(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    out = class_information(model, x, options.pop("labels"), prior=torch.ones(2), draws=4, **options)
    return torch.cat((out.nats[:, None], out.posterior), 1)


def apart_from(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    """The divergence of the density under the labels from that under the other ones."""
    labels = options.pop("labels")
    conditions: dict[str, Any] = {"conditions": {"labels": labels}, "other_conditions": {"labels": 1 - labels}}
    out = kl_divergence(model, model, x, draws=4, **conditions, **options)
    return torch.stack((out.squares, out.log_ratio), 1)


def dimension(divergence: Any, model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    return flipd(model, x, log_snr=[0.0, 2.0], divergence=divergence, **options).dimension.mT


def in_pairs(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    """What the density under the other label has more."""
    labels = options.pop("labels")
    conditions = [{"labels": labels}, {"labels": 1 - labels}]
    return compare_likelihoods([model, model], x, conditions=conditions, tol=0.1, **options).differences[0].values


def way(model: ScoreModel, x: Tensor, **options: Any) -> Tensor:
    return interpolate(model, x, x.flip(1), 3, rtol=1e-4, atol=1e-4, **options)


SOLVERS = {
    name: Case(
        partial(drawn, name),
        single=torch.float32,
        # scipy has one step size for a batch.
        tolerance={"scipy": 3e-3}.get(name, 1e-8),
    )
    for name in NAMES
}
DENSITIES = {
    "x_init": Case(started, random=False, single=torch.float32),
    "log_prob": Case(with_density),
    "exact": Case(partial(density, Exact()), random=False),
    "hutchinson": Case(partial(density, Hutchinson(2))),
    "gaussian probes": Case(partial(density, Hutchinson(2, "gaussian"))),
    "probing": Case(partial(density, Probing(2)), random=False),
    "auto": Case(partial(density, Auto(0.5))),
    "bits": Case(bits),
    "truncated normal": Case(partial(bits, dequantisation=TruncatedNormal(0.02))),
    "elbo": Case(partial(bound, elbo)),
    "discrete elbo": Case(partial(bound, partial(discrete_elbo, steps=20))),
    "chain": Case(partial(of_chain, draws=2)),
    "drawn steps": Case(partial(of_chain, evaluations=8)),
    "differentiable": Case(
        partial(differentiable_log_prob, steps=4, divergence=Hutchinson(2)), chunks=False, mode=False, graph=True
    ),
    "classes": Case(by_class),
    "denoising errors": Case(denoised),
    "information of labels": Case(of_labels),
    "information by classes": Case(of_classes),
    "divergence of models": Case(apart_from),
    "dimension": Case(partial(dimension, Exact()), random=False),
    "dimension by probes": Case(partial(dimension, Hutchinson(2))),
    "pairs": Case(in_pairs),
    "solver error": Case(partial(solver_error, tol=0.1)),
    "encode": Case(partial(without_seed, partial(encode, rtol=1e-4, atol=1e-4)), False, single=torch.float32),
    "decode": Case(partial(without_seed, partial(decode, rtol=1e-4, atol=1e-4)), False, single=torch.float32),
    "interpolate": Case(partial(without_seed, way), False, single=torch.float32),
    "round trip": Case(partial(without_seed, round_trip_error), False),
}
CASES = {**SOLVERS, **DENSITIES}


@lru_cache
def model() -> Classes:
    return Classes(VPSDE()).eval()


def states() -> Tensor:
    """Samples, which as states at t_max are as good as any."""
    return 0.6 * torch.randn(N, SIZE, generator=generator(5), dtype=F64)


@lru_cache
def whole(name: str) -> Tensor:
    """The result for all samples at once, which the tests compare others with."""
    return CASES[name].call(model(), states(), labels=LABELS, seed=3, first=0)


def differences(found: Tensor, wanted: Tensor) -> Tensor:
    """The largest difference `(B,)` in each row; that of NaN, as a bound's error of a single draw has, is none."""
    return (found.detach() - wanted.detach()).abs().nan_to_num(0.0).reshape(len(found), -1).amax(1)


def apart(found: Tensor, wanted: Tensor) -> float:
    return float(differences(found, wanted).max())


every = pytest.mark.parametrize("name", CASES)


@every
def test_a_seed_repeats_and_another_differs(name: str) -> None:
    case = CASES[name]
    again = case.call(model(), states(), labels=LABELS, seed=3, first=0)
    torch.testing.assert_close(again, whole(name), rtol=0, atol=0, equal_nan=True)
    other = case.call(model(), states(), labels=LABELS, seed=9, first=0)
    changed = differences(other, whole(name)) > 0
    assert bool(changed.all()) if case.random else not bool(changed.any())


@every
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    """Not on how many there are, nor on how they are split, nor on what the others are."""
    case, x = CASES[name], states()
    some = slice(1, 3)
    alone = case.call(model(), x[some], labels=LABELS[some], seed=3, first=1)
    assert apart(alone, whole(name)[some]) <= case.tolerance
    if case.chunks:
        split = case.call(model(), x, labels=LABELS, seed=3, first=0, batch_size=2)
        assert apart(split, whole(name)) <= case.tolerance
    x[3:] *= 3.0
    mates = case.call(model(), x, labels=LABELS, seed=3, first=0)
    assert apart(mates[:3], whole(name)[:3]) <= case.tolerance


@every
def test_conditions_go_with_their_rows(name: str) -> None:
    case, labels = CASES[name], LABELS.clone()
    labels[2] = 1 - labels[2]
    found = case.call(model(), states(), labels=labels, seed=3, first=0)
    changed = differences(found, whole(name)) > case.tolerance
    assert changed.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mode])
def test_the_mode_is_that_of_evaluation_and_is_restored(name: str) -> None:
    other = Classes(VPSDE()).train()
    other.parts[0].eval()  # a part that somebody froze
    before = [module.training for module in other.modules()]
    found = CASES[name].call(other, states(), labels=LABELS, seed=3, first=0)
    torch.testing.assert_close(found, whole(name), rtol=1e-9, atol=1e-9, equal_nan=True)
    assert [module.training for module in other.modules()] == before
    with pytest.raises((KeyError, LikelihoodError)):
        CASES[name].call(other, states(), seed=3, first=0)
    assert [module.training for module in other.modules()] == before


@every
def test_no_gradient_is_left(name: str) -> None:
    case, x = CASES[name], states().requires_grad_()
    found = case.call(model(), x, labels=LABELS, seed=3, first=0)
    assert found.requires_grad is case.graph
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model().parameters())
    assert torch.is_grad_enabled()


@every
def test_the_state_keeps_its_dtype_and_float32_follows(name: str) -> None:
    case = CASES[name]
    found = case.call(model(), states().float(), labels=LABELS, seed=3, first=0)
    assert found.dtype == case.single
    assert whole(name).dtype == F64
    assert bool(found.isfinite().all())
    assert apart(found.double(), whole(name)) < 1e-3
