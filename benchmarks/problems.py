"""A family of sampling problems whose scores are exact: mixtures drawn from a seed, and guided fields of two of them.

Every kind is a way in which densities differ: in dimension, number, distance, width, rank, weights and tails of the
modes. A seed draws the numbers of a problem and its SDE. `DEVELOPMENT` are problems that rules may be developed on;
`HELD_OUT` are for one look at the end, when the rule stands.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from low_rank import LowRankMixtureScore
from torch import Tensor

from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE

__all__ = ["DEVELOPMENT", "HELD_OUT", "KINDS", "Guided", "Mixture", "Problem", "make_problem"]


class Guided(ScoreModel):
    """The field w D(x | class) + (1 − w) D(x) of two exact scores (Ho & Salimans 2022), which no density has."""

    def __init__(self, conditional: GaussianMixtureScore, marginal: GaussianMixtureScore, scale: float) -> None:
        super().__init__(conditional.sde, marginal.statistics)
        self.conditional, self.marginal, self.scale = conditional, marginal, scale

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return torch.lerp(self.marginal.denoise(x, t), self.conditional.denoise(x, t), self.scale)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return torch.lerp(self.marginal.noise(x, t), self.conditional.noise(x, t), self.scale)


@dataclass(frozen=True)
class Mixture:
    """Parameters of a Gaussian mixture in data space: weights `(K,)`, means `(K, D)`, covariances as for the model.

    `low_rank` says that covariances are full matrices which differ from a multiple of the unit matrix by a few ranks.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    low_rank: bool = False

    def under(self, sde: SDE) -> GaussianMixtureScore:
        make = LowRankMixtureScore if self.low_rank else GaussianMixtureScore
        return make(self.weights, self.means, self.covariances, sde)


class Draws:
    """Random numbers of a problem, from its kind and its seed."""

    def __init__(self, kind: str, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed * 1000 + list(KINDS).index(kind))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=self.generator)

    def between(self, low: float, high: float) -> float:
        """One number, uniform in its logarithm."""
        return math.exp(float(self.uniform(math.log(low), math.log(high), 1)))

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def rotation(self, dim: int, count: int | None = None) -> Tensor:
        """`count` columns of a random orthogonal matrix; all if not given."""
        rotation: Tensor = torch.linalg.qr(self.normal(dim, dim if count is None else count))[0]
        return rotation

    def choice(self, *values: int) -> int:
        return values[self.integer(0, len(values) - 1)]


# ---------------------------------------------------------------- kinds


def _normal(draw: Draws) -> Mixture:
    """One Gaussian, with standard deviations over up to three decades."""
    dim = draw.integer(1, 12)
    rotation, spread = draw.rotation(dim), draw.uniform(math.log(draw.between(0.003, 0.3)), 0.5, dim).exp()
    return Mixture(torch.ones(1), draw.normal(1, dim), ((rotation * spread**2) @ rotation.T)[None])


def _tight_pair(draw: Draws) -> Mixture:
    """Two narrow modes far apart."""
    dim, width = draw.integer(1, 8), draw.between(0.01, 0.1)
    way = draw.rotation(dim, 1)[:, 0] * draw.between(1.0, 3.0)
    weight = float(draw.uniform(0.3, 0.7, 1))
    return Mixture(torch.tensor([weight, 1 - weight]), torch.stack((way, -way)), torch.full((2,), width**2))


def _many_modes(draw: Draws) -> Mixture:
    """Modes at random places of the plane."""
    count, width = draw.integer(12, 40), draw.between(0.02, 0.1)
    return Mixture(torch.ones(count), draw.uniform(-2, 2, count, 2), torch.full((count,), width**2))


def _ring(draw: Draws) -> Mixture:
    """Modes on a circle, from parted to melted into each other."""
    count, width = draw.integer(5, 16), draw.between(0.04, 0.4)
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    return Mixture(
        torch.ones(count),
        torch.stack((angle.cos(), angle.sin()), 1) * draw.between(0.5, 2.0),
        torch.full((count,), width**2),
    )


def _tails(draw: Draws) -> Mixture:
    """Gaussians of several widths at one mean: heavy tails."""
    dim, count = draw.integer(2, 16), draw.integer(3, 6)
    widths = torch.logspace(math.log10(draw.between(0.03, 0.2)), math.log10(draw.between(1.0, 3.0)), count)
    return Mixture(draw.uniform(0.3, 1.0, count), draw.normal(1, dim).expand(count, dim) * 0.5, widths.double() ** 2)


def _low_rank(draw: Draws, dims: tuple[int, ...] = (64, 256, 784)) -> Mixture:
    """Components near planes of a few dimensions in a space of many."""
    dim, count = draw.choice(*dims), draw.integer(4, 10)
    thin = draw.between(0.01, 0.05)
    covariances = []
    for _ in range(count):
        rank = draw.integer(2, 20)
        base = draw.rotation(dim, rank) * draw.uniform(0.2, 1.5, rank)
        covariances.append(base @ base.T + thin**2 * torch.eye(dim, dtype=torch.float64))
    return Mixture(draw.uniform(0.5, 1.5, count), 0.5 * draw.normal(count, dim), torch.stack(covariances), True)


def _needles(draw: Draws) -> Mixture:
    """Long and thin modes that point in all directions."""
    dim, count = draw.choice(2, 2, 3, 5), draw.integer(3, 10)
    spreads = torch.full((dim,), draw.between(0.005, 0.05), dtype=torch.float64)
    spreads[0] = draw.between(0.3, 1.0)
    rotations = torch.stack([draw.rotation(dim) for _ in range(count)])
    return Mixture(
        torch.ones(count), draw.uniform(-1.5, 1.5, count, dim), (rotations * spreads**2) @ rotations.transpose(1, 2)
    )


def _unequal(draw: Draws) -> Mixture:
    """Modes of unequal weights, widths and shapes."""
    dim, count = draw.integer(2, 24), draw.integer(3, 12)
    weights = draw.uniform(math.log(0.02), 0.0, count).exp()
    widths = draw.uniform(math.log(0.03), math.log(0.8), count, dim).exp()
    return Mixture(weights, draw.normal(count, dim) * draw.between(0.5, 2.0), widths**2)


def _images(draw: Draws) -> Mixture:
    """Smooth images of 8x8 pixels: full covariances with a spectrum that falls, and pixels that hardly vary."""
    dim, count = 64, draw.integer(4, 12)
    power, least = float(draw.uniform(0.5, 1.5, 1)), draw.between(0.01, 0.05)
    covariances = []
    for _ in range(count):
        spread = torch.arange(1, dim + 1, dtype=torch.float64).pow(-power) * draw.between(0.8, 2.0)
        base = draw.rotation(dim) * spread
        covariances.append(base @ base.T + least**2 * torch.eye(dim, dtype=torch.float64))
    return Mixture(draw.uniform(0.5, 1.5, count), 0.4 * draw.normal(count, dim), torch.stack(covariances))


def _guided(draw: Draws) -> Mixture:
    """A mixture of which the first component is the class that guidance asks for."""
    dim, count = draw.integer(1, 16), draw.integer(2, 8)
    return Mixture(
        draw.uniform(0.5, 1.5, count), draw.normal(count, dim), draw.uniform(math.log(0.05), -0.5, count, dim).exp()
    )


KINDS: dict[str, Callable[[Draws], Mixture]] = {
    "normal": _normal,
    "tight pair": _tight_pair,
    "many modes": _many_modes,
    "ring": _ring,
    "tails": _tails,
    "low rank": _low_rank,
    "needles": _needles,
    "unequal": _unequal,
    "images": _images,
    "guided": _guided,
}


# ---------------------------------------------------------------- problems


@dataclass(frozen=True)
class Problem:
    """A field to integrate, and what is known of its density.

    Attributes:
        kind: One of `KINDS`.
        seed: The seed that its numbers are drawn from.
        model: The field.
        density: The exact density of the samples; None for a guided field.
        start: The mixture of which starts are drawn, noised.
    """

    kind: str
    seed: int
    model: ScoreModel
    density: GaussianMixtureScore | None
    start: GaussianMixtureScore

    @property
    def name(self) -> str:
        return f"{self.kind} {self.seed}"

    @property
    def dim(self) -> int:
        return self.start.means.shape[1]

    @property
    def ends(self) -> tuple[float, float]:
        """The times that samplers start and stop at."""
        return self.model.sde.t_max, self.model.sde.t_min_sampling

    def starts(self, count: int, seed: int = 0) -> Tensor:
        """States at the first time, `(count, D)` in float64."""
        return self.start.sample(count, self.ends[0], torch.Generator().manual_seed(seed))

    def samples(self, count: int, seed: int = 0) -> Tensor:
        """Exact samples at the last time, `(count, D)` in float64."""
        if self.density is None:
            raise ValueError(f"{self.name} is a guided field, of whose samples no density is known")
        return self.density.sample(count, self.ends[1], torch.Generator().manual_seed(seed))

    def __str__(self) -> str:
        return f"{self.name} ({self.dim}-D, {self.model.sde!r})"


def _sde(draw: Draws) -> SDE:
    """Half of the problems are under EDM's SDE, which peers are written for."""
    made: tuple[Callable[[], SDE], ...] = (
        *[lambda: EDMSDE(0.002, 80.0)] * 5,
        VPSDE,
        SubVPSDE,
        lambda: VESDE(0.002, 50.0),
        CosineSDE,
        FlowSDE,
    )
    return made[draw.integer(0, len(made) - 1)]()


def make_problem(kind: str, seed: int, sde: SDE | None = None) -> Problem:
    """The problem of a kind and a seed, under an SDE that the seed draws if none is given."""
    draw = Draws(kind, seed)
    mixture = KINDS[kind](draw)
    scale = draw.between(1.0, 8.0)
    chosen = _sde(draw)
    model = mixture.under(chosen if sde is None else sde)
    if kind != "guided":
        return Problem(kind, seed, model, model, model)
    alone = Mixture(torch.ones(1), mixture.means[:1], mixture.covariances[:1]).under(model.sde)
    return Problem(kind, seed, Guided(alone, model, scale), None, alone)


DEVELOPMENT = tuple((kind, seed) for seed in (0, 1) for kind in KINDS)
HELD_OUT = tuple((kind, seed) for seed in (100, 101, 102) for kind in KINDS)
