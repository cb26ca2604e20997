"""Dequantisation and decoders: from a density p over continuous values to a probability of discrete ones.

A decoder d(k|z) is a probability over levels at every z, and P(k) = ∫ p(z) d(k|z) dz is the model. For every density
q(z|k) of the dequantisation

    log P(k) ≥ E_q[log p(z) + log d(k|z) − log q(z|k)],

and, with K draws, the same holds for the logarithm of the mean of p d/q (Theis et al. 2016, eq. 4; Ho et al. 2019,
eq. 12; Burda et al. 2016). So a figure is a bound on a probability that depends on the density p, which is that at
t_min, and on the decoder d. Both belong to the figure.

References:
    A note on the evaluation of generative models (Theis et al. 2016), https://arxiv.org/abs/1511.01844
    Flow++: improving flow-based generative models with variational dequantization and architecture design (Ho et al.
    2019), https://arxiv.org/abs/1902.00275
    Importance weighted autoencoders (Burda et al. 2016), https://arxiv.org/abs/1509.00519
"""

import copy
import hashlib
import math
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.cell_flow import CellFlow
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.values import described, positive

__all__ = [
    "Dequantisation",
    "DiscreteTransform",
    "Posterior",
    "TruncatedNormal",
    "Uniform",
    "Variational",
    "dequantisation_noise",
    "gaussian_decoder",
]


@runtime_checkable
class DiscreteTransform(Protocol):
    """A transform of discrete data, such as `scoresde.data.Discrete`."""

    @property
    def levels(self) -> int | None: ...

    def encode(self, raw: Tensor, noise: Tensor | None = None) -> Tensor:
        """The values in model space at the places `noise` in [0, 1) of their cells; at the middles if not given."""
        ...

    def log_det(self, shape: tuple[int, ...]) -> float:
        """The log-determinant of the map to model space for samples of this shape, in nats."""
        ...


def dequantisation_noise(pixels: Tensor, seed: int, first: int) -> SampleNoise:
    """The random numbers that samples `(B, ...)`, of which the first has the index `first`, are dequantised with."""
    indices = torch.arange(first, first + len(pixels))
    shape = tuple(pixels.shape[1:])
    return SampleNoise(seed, indices, shape, torch.float64, pixels.device, stream=Stream.DEQUANTISATION)


class Dequantisation(ABC):
    """A density q(z|k) of values z given integers k.

    Attributes:
        within: True if z stays in the cell of k, which `decoder="rounding"` needs.
    """

    within = True

    @property
    def name(self) -> str:
        """The name that is printed with a figure."""
        return repr(self)

    @property
    def digest(self) -> str:
        """A digest of learned parameters, which tells one dequantisation from another; empty if there are none."""
        return ""

    def check(self, shape: tuple[int, ...], levels: int | None) -> None:
        """Check that the dequantisation is for data of this shape and number of levels.

        Raises:
            ValueError: Data of another shape or number of levels.
        """

    @abstractmethod
    def draw(
        self, pixels: Tensor, transform: DiscreteTransform, noise: SampleNoise, alpha: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        """A draw of the values z `(B, ...)` in model space, and log q `(B,)` in nats.

        Args:
            pixels: Integers `(B, ...)`.
            transform: The transform of the data.
            noise: Float64 draws of the shape of pixels.
            alpha: Signal scale at t_min.
            sigma: Noise scale at t_min.
        """

    def __repr__(self) -> str:
        return described(self, digits=6)


class _InCell(Dequantisation):
    """A density in the cell of k that is the same for each element and each k."""

    @abstractmethod
    def place(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The place u in the unit cell, from uniforms of the same shape, and its log q `(B,)`."""

    def draw(
        self, pixels: Tensor, transform: DiscreteTransform, noise: SampleNoise, alpha: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        u, log_q = self.place(noise.uniform())
        return transform.encode(pixels, u), log_q - transform.log_det(tuple(pixels.shape[1:]))


class Uniform(_InCell):
    """A uniform density on the cell (Uria et al. 2013)."""

    @property
    def name(self) -> str:
        return "uniform"

    def place(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        return uniform, uniform.new_zeros(len(uniform))


@checked
class TruncatedNormal(_InCell):
    """A normal density about the middle of the cell, cut off at its edges (Zheng et al. 2023, section 4.2).

    It suits a model of data that were not dequantised in training: at t_min the density of such a model has the noise
    of each value, of standard deviation σ/α, about the middle of its cell. For a model that was trained on uniformly
    dequantised data, the bound is worse the narrower the density is.

    Args:
        std: Standard deviation in widths of a cell; σ/α at t_min over the width in the first case above.
    """

    def __init__(self, std: float = 0.3) -> None:
        positive("std", std, "a positive number of cell widths")
        self.std = float(std)

    def place(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        edge = torch.tensor(0.5 / self.std, dtype=torch.float64)
        low = torch.special.ndtr(-edge)
        mass = 1 - 2 * low
        z = torch.special.ndtri(low + uniform * mass).clamp(-edge, edge)
        # Rounding must not leave the cell.
        u = (0.5 + self.std * z).clamp(0, math.nextafter(1, 0))
        log_q = -0.5 * z.square() - math.log(self.std) - 0.5 * math.log(2 * math.pi) - mass.log()
        return u, log_q.flatten(1).sum(1)


class Posterior(Dequantisation):
    """z = α c + σ ε about the middle c of the cell: a noised value at t_min (Ho et al. 2020; Kingma et al. 2021).

    z leaves the cell, hence `decoder="gaussian"` is needed. The bound is good if σ/α at t_min is about the width of a
    cell, or if the model was trained on data that were not dequantised.
    """

    within = False

    def draw(
        self, pixels: Tensor, transform: DiscreteTransform, noise: SampleNoise, alpha: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        eps = noise()
        log_q = -0.5 * eps.square() - math.log(sigma) - 0.5 * math.log(2 * math.pi)
        return alpha * transform.encode(pixels).double() + sigma * eps, log_q.flatten(1).sum(1)


@checked
class Variational(Dequantisation):
    """A flow in the cell that was trained for the model (Ho et al. 2019, Flow++, section 3.1).

    Densities are in float64, whatever the dtype in which the flow was trained.

    Args:
        path: The file that `scoresde dequantise run=DIR` wrote, or the flow itself, of which a copy is made.

    Raises:
        ValueError: No file, or not such a file; in `draw`, data of another shape or number of levels.
    """

    def __init__(self, path: str | Path | CellFlow | None = None) -> None:
        if path is None:
            raise ValueError("path is missing: give the file that `scoresde dequantise run=DIR` wrote, or a CellFlow")
        flow = copy.deepcopy(path) if isinstance(path, CellFlow) else CellFlow.load(path)
        self.flow = flow.double().eval()

    @property
    def name(self) -> str:
        return "variational"

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256()
        for parameter in self.flow.state_dict().values():
            digest.update(parameter.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, shape: tuple[int, ...], levels: int | None) -> None:
        self.flow.check(shape, levels)

    def __repr__(self) -> str:
        return f"Variational({self.digest}, shape={self.flow.shape}, levels={self.flow.levels})"

    @torch.no_grad()
    def draw(
        self, pixels: Tensor, transform: DiscreteTransform, noise: SampleNoise, alpha: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        shape = tuple(pixels.shape[1:])
        self.check(shape, transform.levels)
        u, log_det = self.flow.to(pixels.device)(pixels, noise.uniform())
        # Rounding must not leave the cell.
        u = u.clamp(max=math.nextafter(1, 0))
        return transform.encode(pixels, u), -log_det - transform.log_det(shape)


def gaussian_decoder(z: Tensor, pixels: Tensor, transform: DiscreteTransform, alpha: float, sigma: float) -> Tensor:
    """The logarithm `(B,)` of the decoder d(k|z) ∝ N(z; α c_k, σ²) for each element, in nats.

    c_k are the middles of the cells. All levels have the same weight (Kingma et al. 2021, section 3.2).

    Args:
        z: Values `(B, ...)` in model space.
        pixels: Integers `(B, ...)`.
        transform: The transform of the data.
        alpha: Signal scale at t_min.
        sigma: Noise scale at t_min.
    """
    assert transform.levels is not None
    levels = torch.arange(transform.levels, device=z.device)
    centres = alpha * transform.encode(levels[None]).double().flatten()
    total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    rows = max(1, 2**22 // (z[0].numel() * transform.levels))
    for start in range(0, len(z), rows):
        part = slice(start, start + rows)
        logits = -0.5 * ((z[part].double()[..., None] - centres) / sigma).square()
        chosen = logits.log_softmax(-1).gather(-1, pixels[part].long()[..., None])
        total[part] = chosen.flatten(1).sum(1)
    return total
