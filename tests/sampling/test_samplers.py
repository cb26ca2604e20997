"""Every sampler of `conf/sampler`, composed as the command does and run on an exact score.

The mean and the covariance of 1,024 samples are compared with the mixture's, in units in which that has mean 0 and
covariance I: √(2/1024) = 0.04 and about 0.06 of the distances are chance. The paths of an exact solve of the ODE from
these starts are 0.02 and 0.09 off.
"""

from functools import lru_cache
from typing import NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

from scoresde.cli import conf_dir
from scoresde.config.targets import instantiate
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Sampler
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.sde import EDMSDE, SDE, VPSDE
from scoresde.statistics import Statistics

# One needs a file made by `scoresde tune`, and the other does not draw from the density.
OTHERS = ("tuned", "high_density")
NAMES = sorted(path.stem for path in (conf_dir() / "sampler").glob("*.yaml") if path.stem not in OTHERS)
SDES = {"vp": VPSDE(), "edm": EDMSDE()}
STEPS = 6


class Bound(NamedTuple):
    """At most how far the mean (Euclidean norm) and the covariance (spectral norm) may be off at six steps."""

    mean: float
    covariance: float


# Six steps only say when the states are given, or are chosen for few steps: little more than chance.
TIGHT = Bound(0.2, 0.2)
# Two or three stages, or several earlier values, on a grid that suits them.
GOOD = Bound(0.25, 0.4)
# First order, or first steps of it: the modes are found, but with too little variance.
FIRST = Bound(0.3, 0.85)
# Higher orders that overshoot where a step is longer than their expansion holds; half of it noise.
WIDE = Bound(0.6, 10.0)
# Noise of a step's size is left in the samples; under σ = t and uniform t that has no bound of use.
NOISY = Bound(0.4, 6.0)

TIGHTS = ("adaptive_sde", "bosh3", "default", "default_sde", "dop853", "dopri5", "dpm3", "dpmpp_3s", "res3s",
          "scipy", "seeds3", "tsit5")  # fmt: skip
FIRSTS = ("ddim", "ddpm", "deis_rhoab", "dpm2", "dpmpp_1m", "dpmpp_1m_sde", "er_sde", "euler", "lms", "picard",
          "seeds1", "seeds2", "strided")  # fmt: skip
WIDES = ("dpmpp_3m", "dpmpp_3m_sde", "edm_churn", "edm_heun", "heun", "restart", "sa_solver")
NOISIES = ("ancestral", "annealed_langevin", "euler_maruyama", "ncsn", "ncsnv2", "pc", "reverse_diffusion", "torchsde")
BOUNDS = {
    **dict.fromkeys(TIGHTS, TIGHT),
    **dict.fromkeys(FIRSTS, FIRST),
    **dict.fromkeys(WIDES, WIDE),
    **dict.fromkeys(NOISIES, NOISY),
    "res2s": Bound(0.2, 0.25),
}
# Its quadratic grid is in t, as in its paper: it is of no use where σ = t, nor is uniform t, nor are steps of a chain.
ONLY_VP = (*NOISIES, "deis_tab", "strided")

# Evaluations of a step; the denoising at the end is one more. Half a step's worth of them may be saved at the start.
STAGES = {
    **dict.fromkeys(("dpm2", "dpmpp_2s", "edm_churn", "edm_heun", "heun", "pc", "ralston", "res2s", "seeds2"), 2),
    **dict.fromkeys(("dpm3", "dpmpp_3s", "res3s", "seeds3"), 3),
    "rk4": 4,
    "annealed_langevin": 5,
    "torchsde": 4,
}
EVALUATIONS = {
    "restart": 2 * STEPS + 2 * 2 * 3 + 1,
    "default": STEPS,
    "default_sde": STEPS,
    "ncsn": 100 * (STEPS + 1),
    "ncsnv2": 5 * (STEPS + 1) + 1,
}
OPEN = ("adaptive_sde", "bosh3", "dop853", "dopri5", "picard", "scipy", "tsit5")

COUNT = 1024

WEIGHTS = torch.tensor([0.4, 0.6], dtype=torch.float64)
MEANS = torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
COVARIANCES = torch.tensor([[[0.2, 0.05], [0.05, 0.1]], [[0.1, -0.05], [-0.05, 0.3]]], dtype=torch.float64)


def mixture(sde: SDE) -> GaussianMixtureScore:
    return GaussianMixtureScore(WEIGHTS, MEANS, COVARIANCES, sde)


@lru_cache
def preset(name: str, steps: int | None) -> Sampler:
    few = [] if steps is None else [f"sampler.grid.steps={steps}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose(config_name="sample", overrides=["run=nowhere", f"sampler={name}", *few])
    return instantiate(config, "sampler")


def distances(x: Tensor) -> tuple[float, float]:
    """Of the mean from 0 and of the covariance from I, whitened by the mixture's."""
    mean = WEIGHTS @ MEANS
    apart = MEANS - mean
    covariance = torch.einsum("k,kij->ij", WEIGHTS, COVARIANCES + apart[:, :, None] * apart[:, None, :])
    w = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x.double() - mean).T, upper=False)
    return float(w.mean(1).norm()), float(torch.linalg.matrix_norm(w.cov() - torch.eye(2), 2))


def test_every_family_is_of_presets_that_exist() -> None:
    known = [*TIGHTS, *FIRSTS, *WIDES, *NOISIES, *ONLY_VP, *STAGES, *EVALUATIONS, *OPEN]
    assert set(known) <= set(NAMES)


@pytest.mark.parametrize("sde", SDES.values(), ids=list(SDES))
@pytest.mark.parametrize("name", NAMES)
def test_six_steps(name: str, sde: SDE) -> None:
    sampler, model = preset(name, STEPS), mixture(sde)
    out = sampler(model, (COUNT, 2), dtype=torch.float32)
    assert out.x.dtype == torch.float32
    assert len(out.times) == STEPS + 1
    mean, covariance = distances(out.x)
    if sde is SDES["vp"] or name not in ONLY_VP:
        bound = BOUNDS.get(name, GOOD)
        assert mean < bound.mean
        assert covariance < bound.covariance
    if name not in OPEN:
        assert out.nfe == EVALUATIONS.get(name, STEPS * STAGES.get(name, 1) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("sde", SDES.values(), ids=list(SDES))
@pytest.mark.parametrize("name", NAMES)
def test_its_own_steps(name: str, sde: SDE) -> None:
    if name == "strided" and sde is SDES["edm"]:
        return  # its steps are those of a chain that preserves variance
    # Ten levels are for σ from 1 to 0.01, and here as far apart as NCSN's only with more.
    steps = {"ncsn": 24}.get(name)
    mean, covariance = distances(preset(name, steps)(mixture(sde), (COUNT, 2), dtype=torch.float32).x)
    bound = Bound(0.3, 0.35)
    assert mean < bound.mean
    assert covariance < bound.covariance


@lru_cache
def network_model(kind: str) -> NetworkScore:
    torch.manual_seed(0)
    network = MLP((2,), width=32, blocks=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    inner: nn.Module = network.eval()
    if kind == "bfloat16":
        inner = network.bfloat16()
    elif kind == "compiled":
        inner = torch.compile(network, backend="aot_eager")  # type: ignore[assignment]
    return NetworkScore(inner, VPSDE(), EDMPreconditioning(0.8), Statistics(torch.zeros(2), 0.8, 0.64 * torch.eye(2)))


@lru_cache
def wanted_states(name: str) -> Tensor:
    """Of the network as it is, with which the compiled and the bfloat16 one are compared."""
    return preset(name, STEPS)(network_model("plain"), (64, 2)).x


# Their tolerances are far below the round-off of bfloat16, which they would follow in tiny steps.
ADAPTIVE = ("adaptive_sde", "bosh3", "dop853", "dopri5", "scipy", "tsit5")


def one_of_each_class() -> list[str]:
    """The first sampler of every class with steps of its own: compiling is the same for all settings of a class."""
    chosen: dict[type, str] = {}
    for name in NAMES:
        made = get_class(OmegaConf.load(conf_dir() / "sampler" / f"{name}.yaml").solver._target_)
        chosen.setdefault(next(c for c in made.__mro__ if "solve" in vars(c)), name)
    return list(chosen.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(pytest.param(name, "compiled", marks=pytest.mark.slow) for name in one_of_each_class()),
        *((name, "bfloat16") for name in NAMES if name not in ADAPTIVE),
    ],
)
def test_states_are_float32_around_any_network(name: str, kind: str) -> None:
    wanted = wanted_states(name)
    out = preset(name, STEPS)(network_model(kind), (64, 2)).x
    assert out.dtype == torch.float32
    # bfloat16 has 8 bits, and a state is what several steps make of them.
    share = 0.1 if kind == "bfloat16" else 1e-4
    assert float((out - wanted).square().mean().sqrt()) < share * float(wanted.square().mean().sqrt())


def test_the_bounds_of_the_better_families_exclude_noise() -> None:
    mean, covariance = distances(torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0)))
    # Of the mixture's mean from 0, which is what noise has.
    assert mean == pytest.approx(0.192, abs=3 * 0.04)
    assert covariance > max(TIGHT.covariance, GOOD.covariance, FIRST.covariance)
