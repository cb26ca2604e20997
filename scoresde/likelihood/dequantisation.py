"""Dequantisation and decoders: from a density p over continuous values to a probability of discrete ones.

A decoder d(k|z) is a probability over levels at every z, and P(k) = ∫ p(z) d(k|z) dz the model. Whatever the density
q(z|k) of the dequantisation is,

    log P(k) ≥ E_q[log p(z) + log d(k|z) − log q(z|k)],

or, with K draws, by the logarithm of the mean of p d/q (Theis et al. 2016, eq. 4; Ho et al. 2019, eq. 12; Burda et al.
2016). So a figure is a bound on a probability, of which it has to be said what p is (the density at t_min) and what d.
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
from scoresde.numerics.random import SampleNoise

__all__ = [
    "Dequantisation",
    "DiscreteTransform",
    "Posterior",
    "TruncatedNormal",
    "Uniform",
    "Variational",
    "gaussian_decoder",
]


@runtime_checkable
class DiscreteTransform(Protocol):
    """What is asked of a transform; `scoresde.data.Discrete` has it."""

    @property
    def levels(self) -> int | None: ...

    def encode(self, raw: Tensor, noise: Tensor | None = None) -> Tensor: ...

    def log_det(self, shape: tuple[int, ...]) -> float: ...


class Dequantisation(ABC):
    """q(z|k), the same for each element.

    Attributes:
        within: whether z stays in the cell of k, which `decoder="rounding"` asks for.
    """

    within = True

    @property
    def name(self) -> str:
        """As it is printed beside a figure."""
        return repr(self)

    @property
    def digest(self) -> str:
        """Of what was learned, to tell one from another; empty where nothing was."""
        return ""

    def check(self, shape: tuple[int, ...], levels: int | None) -> None:
        """Refuse data of a shape or a number of levels that this is not for.

        Raises:
            ValueError: naming both.
        """

    @abstractmethod
    def draw(
        self, pixels: Tensor, transform: DiscreteTransform, noise: SampleNoise, alpha: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        """z `(B, ...)` in model space and log q `(B,)` in nats.

        Args:
            pixels: `(B, ...)` integers.
            transform: of the data.
            noise: float64 draws of the shape of pixels.
            alpha: signal scale at t_min.
            sigma: noise scale at t_min.
        """

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v:g}" for k, v in vars(self).items())
        return f"{type(self).__name__}({values})"


class _InCell(Dequantisation):
    """z at a place u of the unit cell."""

    @abstractmethod
    def place(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """u in [0, 1) from uniform numbers, and log q `(B,)` of it."""

    def draw(
        self, pixels: Tensor, transform: DiscreteTransform, noise: SampleNoise, alpha: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        u, log_q = self.place(noise.uniform())
        return transform.encode(pixels, u), log_q - transform.log_det(tuple(pixels.shape[1:]))


class Uniform(_InCell):
    """Uniform on the cell (Uria et al. 2013)."""

    @property
    def name(self) -> str:
        return "uniform"

    def place(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        return uniform, uniform.new_zeros(len(uniform))


@checked
class TruncatedNormal(_InCell):
    """A normal density about the middle of the cell, cut off at its edges (Zheng et al. 2023, section 4.2).

    It suits a model of data that were not dequantised in training: at t_min that has each value's noise, of standard
    deviation σ/α, about the middle of its cell. For one that was trained on uniformly dequantised data the bound is
    worse the narrower it is.

    Args:
        std: in widths of a cell; the model's σ/α at t_min over the width in the case above.
    """

    def __init__(self, std: float = 0.3) -> None:
        if not 0 < std < math.inf:
            raise ValueError(f"std is {std}, expected a positive number of cell widths")
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

    z leaves the cell, so that it needs `decoder="gaussian"`. The bound is a good one where σ/α at t_min is about the
    width of a cell, or where the model was trained on data that were not dequantised.
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

    Densities are in float64, whatever the flow was trained in.

    Args:
        path: the file that `scoresde dequantise run=DIR` wrote, or the flow itself, of which a copy is made.

    Raises:
        ValueError: no file, or not one of these; in `draw`, data of another shape or number of levels.
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
        found = hashlib.sha256()
        for parameter in self.flow.state_dict().values():
            found.update(parameter.cpu().numpy().tobytes())
        return found.hexdigest()[:16]

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
    """log d(k|z) `(B,)` in nats, d(k|z) ∝ N(z; α c_k, σ²) for each element, with c_k the middles of the cells.

    The levels are weighted as if all were as likely (Kingma et al. 2021, section 3.2).
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
