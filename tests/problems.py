"""Exact problems that tests share: SDEs, and data of which scores, densities and samples are known in closed form."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.sampling import ExplicitTimes, Sampler, ScipyODE
from scoresde.sampling.measured_steps import LENGTHS
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import GaussianMixtureScore, ScoreModel, StepRules
from scoresde.score.preconditioning import Preconditioning
from scoresde.sde import DDPMSDE, EDMSDE, NCSNSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE

F64 = torch.float64

# The fixture `once`: a name and what makes the folder, to the folder.
Once = Callable[[str, Callable[[Path], object]], Path]

SDES: dict[str, SDE] = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(),
    "cosine": CosineSDE(),
    "edm": EDMSDE(),
    "flow": FlowSDE(),
    "ddpm": DDPMSDE(),
    "ncsn": NCSNSDE(18, 0.01, 50.0),
}

# Orders, and tolerances that step sizes follow, are of SDEs without a kink at each entry of a table.
SMOOTH = {name: sde for name, sde in SDES.items() if name != "ddpm"}


def in_turn(*axes: Sequence[Any], sdes: Iterable[Any] = tuple(SMOOTH.values())) -> list[tuple[Any, ...]]:
    """Every combination of values, each with one SDE in turn, so that every value of an axis meets several SDEs."""
    sdes = tuple(sdes)
    inner = math.prod(map(len, axes[1:]))
    return [(*row, sdes[(i + i // inner) % len(sdes)]) for i, row in enumerate(itertools.product(*axes))]


def short(value: Any) -> str:
    """A short id for a parameter of a test."""
    return type(value).__name__ if isinstance(value, SDE) else getattr(value, "__name__", str(value))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(
    sde: SDE,
    shape: tuple[int, ...] = (2,),
    mean: float | Sequence[float] = 0.7,
    variance: float | Sequence[float] = 0.3,
) -> GaussianMixtureScore:
    """One Gaussian, under which the probability flow is affine.

    Args:
        sde: SDE that noises the data.
        shape: Shape of a sample.
        mean: Mean of every element, or of each.
        variance: Variance of every element, or of each.
    """
    means = torch.as_tensor(mean, dtype=F64).expand(1, *shape)
    variances = torch.as_tensor(variance, dtype=F64)
    return GaussianMixtureScore(
        torch.ones(1), means, variances.reshape(1) if variances.ndim == 0 else variances.expand(1, *shape), sde
    )


def true_ends(model: ScoreModel, x: Tensor) -> Tensor:
    """Where the ODE takes states at t_max, by a solver of another library."""
    ends = ExplicitTimes([model.sde.t_max, model.sde.t_min_sampling])
    return Sampler(ScipyODE("DOP853", 1e-11, 1e-11), ends, denoise=False)(model, x_init=x).x


def rms(x: Tensor) -> float:
    """The root mean square norm of states `(B, D)`."""
    return float(x.square().sum(1).mean().sqrt())


def with_plain_rules(model: GaussianMixtureScore) -> GaussianMixtureScore:
    """The model with the rules of the default solver for any model, which would otherwise measure its own at first use.

    That takes a second for each number of steps, and is tested in `sampling/test_measured_steps.py`.
    """
    model.step_rules = StepRules({steps: plain_rule(steps) for steps in range(1, LENGTHS[-1] + 1)})
    return model


def ring(sde: SDE, modes: int = 8, std: float = 0.1, centre: tuple[float, float] = (0.0, 0.0)) -> GaussianMixtureScore:
    """Round modes on the unit circle about a centre."""
    angle = torch.arange(modes, dtype=F64) * 2 * math.pi / modes
    means = torch.stack([angle.cos(), angle.sin()], 1) + torch.tensor(centre, dtype=F64)
    return GaussianMixtureScore(torch.ones(modes), means, torch.full((modes,), std**2, dtype=F64), sde)


def blobs(sde: SDE, shape: tuple[int, ...] = (3,), modes: int = 4, variance: float = 0.1) -> GaussianMixtureScore:
    """Equally likely round modes at random places."""
    means = torch.randn(modes, *shape, generator=generator(1), dtype=F64)
    return GaussianMixtureScore(torch.ones(modes), means, torch.full((modes,), variance, dtype=F64), sde)


def correlated(sde: SDE, shape: tuple[int, ...] = (6,), scale: float = 1.0) -> GaussianMixtureScore:
    """Three modes of different weights, each with a full covariance."""
    g, dim = generator(1), math.prod(shape)
    factors = torch.randn(3, dim, dim, generator=g, dtype=F64)
    covariances = factors @ factors.mT / dim * 0.3 + 0.05 * torch.eye(dim, dtype=F64)
    means = torch.randn(3, *shape, generator=g, dtype=F64)
    return GaussianMixtureScore(torch.tensor([0.2, 0.3, 0.5]), scale * means, scale**2 * covariances, sde)


class Mixture:
    """Parameters of a mixture of three, with full covariances `(K, D, D)` whatever the model is given."""

    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(3)
        dim = torch.Size(shape).numel()
        self.weights = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
        self.means = 1.5 * torch.randn(3, *shape, generator=generator, dtype=F64)
        factors = torch.randn(3, dim, dim, generator=generator, dtype=F64)
        eye = torch.eye(dim, dtype=F64)
        if kind == "point":
            self.given = torch.zeros(3, dtype=F64)
            self.full = torch.zeros(3, dim, dim, dtype=F64)
        elif kind == "isotropic":
            self.given = torch.tensor([0.3, 0.05, 0.6], dtype=F64)
            self.full = self.given[:, None, None] * eye
        elif kind == "diagonal":
            variances = 0.1 + torch.rand(3, dim, generator=generator, dtype=F64)
            self.given = variances.reshape(3, *shape)
            self.full = torch.diag_embed(variances)
        elif kind == "full":
            self.full = self.given = factors @ factors.mT / dim + 0.1 * eye
        else:  # singular: one direction has no variance
            factors = factors[:, :, :-1]
            self.full = self.given = factors @ factors.mT / dim

    def model(self, sde: SDE) -> GaussianMixtureScore:
        return GaussianMixtureScore(self.weights, self.means, self.given, sde)

    def at(self, sde: SDE, t: Tensor) -> torch.distributions.Distribution:
        """p_t as torch.distributions computes it, over flat samples."""
        eye = torch.eye(self.full.shape[1], dtype=F64)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(self.weights),
            torch.distributions.MultivariateNormal(
                alpha * self.means.flatten(1), alpha**2 * self.full + sigma**2 * eye
            ),
        )


class Oracle(nn.Module):
    """The network that a preconditioning would have, had it learnt a mixture."""

    def __init__(self, model: GaussianMixtureScore, preconditioning: Preconditioning) -> None:
        super().__init__()
        self.model = model
        self.preconditioning = preconditioning

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        sde = self.model.sde
        t = sde.time(-4 * c_noise.double()).clamp(sde.t_min, sde.t_max)
        x = x / self.preconditioning.c_in(sde, t).to(x)[:, None]
        p, q = (v.to(x)[:, None] for v in self.preconditioning.target(sde, t))
        out: Tensor = p * self.model.denoise(x, t) + q * self.model.noise(x, t)
        return out
