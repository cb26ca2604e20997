"""Markov chains that turn data into noise in T steps, each with a share β_t of noise."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor

from scoresde.arguments import as_tensor
from scoresde.numerics.random import SampleNoise
from scoresde.numerics.values import equal
from scoresde.sde.step_distributions import StepDistribution
from scoresde.sde.tabulated import Levels

__all__ = ["Chain", "StepTable", "same_shape"]

_Self = TypeVar("_Self", bound="Chain")


def same_shape(x: Tensor, x0: Tensor) -> None:
    """Check that states and data have one shape, since others could be broadcast without a word.

    Raises:
        ValueError: Two shapes.
    """
    if x0.shape != x.shape:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected {tuple(x.shape)} as x")


def check_of_steps(name: str, values: Tensor, steps: int) -> None:
    """Check that values are a positive number for each step of a chain.

    Args:
        name: The subject of the message.
        values: The values, on the CPU.
        steps: Number T of steps.

    Raises:
        ValueError: Another number of values, or one that is not positive and finite.
    """
    expected = f"expected a positive number for each of the {steps} steps"
    if values.shape != (steps,):
        raise ValueError(f"{name}: got shape {tuple(values.shape)}, {expected}")
    wrong = (~((values > 0) & values.isfinite())).nonzero()[:, 0].tolist()
    if wrong:
        raise ValueError(f"{name}: that of step {wrong[0] + 1} is {float(values[wrong[0]]):g}, {expected}")


class StepTable:
    """A table of numbers by step, which is copied to a device once.

    Args:
        values: The numbers of the steps 0 ... T, `(T + 1,)` float64 on the CPU.
    """

    def __init__(self, values: Tensor) -> None:
        self._on = {values.device: values}

    def __call__(self, t: Tensor) -> Tensor:
        """The numbers of the steps t, of the shape of t."""
        if t.device not in self._on:
            self._on[t.device] = next(iter(self._on.values())).to(t.device)
        return self._on[t.device][t]


class Chain(ABC):
    """A Markov chain q(x_1 ... x_T | x₀), of which step t keeps a share 1 − β_t of the signal and adds noise.

    After t steps the share ᾱ_t = Π_{s≤t} (1 − β_s) is left (Sohl-Dickstein et al. 2015; Ho et al. 2020). Steps count
    from 1 to T, and are integers, `()` or `(B,)`. States are `(B, ...)`.

    The noise of a step is given as a tensor of the shape of the states, of draws that suit the chain (`draw`), or as
    the generator to draw it with.

    β as a tensor keeps its graph, so that gradients reach it through all that follows from the chain.

    Args:
        betas: The shares β_1 ... β_T, at least two.

    Attributes:
        betas: The shares, `(T,)` float64.

    Raises:
        ValueError: Fewer than two steps, or shares that are not between 0 and 1.
    """

    #: Whether the last β may be 1, with which nothing is left of the data.
    may_end_at_one = False

    betas: Tensor

    def __init__(self, betas: Tensor | Iterable[float]) -> None:
        table = as_tensor("betas", betas if isinstance(betas, Tensor) else list(betas)).to("cpu", torch.float64)
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"betas has shape {tuple(table.shape)}, expected one β for each of at least 2 steps")
        most = table.detach().clone()
        if self.may_end_at_one and most[-1] == 1:
            most[-1] = 0.5
        wrong = (~((most > 0) & (most < 1))).nonzero()[:, 0].tolist()
        if wrong:
            raise ValueError(
                f"β_{wrong[0] + 1} of {len(table)} is {float(table[wrong[0]]):g}, expected numbers between 0 and 1"
                + (", or 1 at the last step" if self.may_end_at_one else "")
                + (": at 1 no signal is left" if float(table[wrong[0]]) == 1 and not self.may_end_at_one else "")
            )
        self._set(table)

    def _set(self, betas: Tensor) -> None:
        self.betas = betas
        start = betas.new_zeros(1)
        # The share of noise of step 0 is 0: nothing has happened.
        self._beta = StepTable(torch.cat((start, betas)))
        self._log_signal = StepTable(torch.cat((start, (-betas).log1p().cumsum(0))))

    @property
    def steps(self) -> int:
        """Number T of steps."""
        return len(self.betas)

    def check_steps(self, t: Tensor | int, least: int = 1) -> Tensor:
        """The steps as a tensor of int64, `()` or `(B,)`.

        Values on an accelerator are not looked at, since that would wait for the device.

        Args:
            t: The steps.
            least: The first step that is accepted.

        Raises:
            ValueError: Steps that are no integers, or not between the first and T.
        """
        t = torch.as_tensor(t)
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise ValueError(
                f"t has dtype {t.dtype}, expected integers, the steps {least} to {self.steps} of the chain"
            )
        if t.device.type == "cpu" and t.numel() and not torch.compiler.is_compiling():
            low, high = (int(v) for v in torch.aminmax(t))
            if low < least or high > self.steps:
                raise ValueError(f"t runs from {low} to {high}, expected steps from {least} to {self.steps}")
        return t.long()

    def beta(self, t: Tensor | int) -> Tensor:
        """The share β_t of noise that step t adds, of the shape of t, float64."""
        return self._beta(self.check_steps(t))

    def signal(self, t: Tensor | int) -> Tensor:
        """The share ᾱ_t of the signal that is left after t steps, 0 to T, of the shape of t, float64."""
        return self._log_signal(self.check_steps(t, 0)).exp()

    def noise_share(self, t: Tensor | int) -> Tensor:
        """The share 1 − ᾱ_t that is noise after t steps, 0 to T, of the shape of t, float64."""
        return -torch.expm1(self._log_signal(self.check_steps(t, 0)))

    @abstractmethod
    def draw(self, noise: SampleNoise) -> Tensor:
        """The next draw `(B, ...)` of a source of noise, as a step of this chain takes it."""

    @abstractmethod
    def marginal(self, x0: Tensor, t: Tensor | int) -> StepDistribution:
        """The distribution q(x_t | x₀) after t steps.

        Args:
            x0: Data `(B, ...)`.
            t: Steps, `()` or `(B,)`.

        Raises:
            ValueError: Data or steps that the chain does not have.
        """

    @abstractmethod
    def transition(self, x: Tensor, t: Tensor | int) -> StepDistribution:
        """The distribution q(x_t | x_{t−1}) of step t.

        Args:
            x: States x_{t−1} `(B, ...)`.
            t: Steps, `()` or `(B,)`.
        """

    @abstractmethod
    def posterior(self, x: Tensor, x0: Tensor, t: Tensor | int) -> StepDistribution:
        """The distribution q(x_{t−1} | x_t, x₀) of the state before step t, given the one after it and the data.

        Args:
            x: States x_t `(B, ...)`.
            x0: Data `(B, ...)`.
            t: Steps, `()` or `(B,)`. At step 1 the distribution is a point, the data themselves.

        Raises:
            ValueError: States and data of two shapes, or steps that the chain does not have.
        """

    @abstractmethod
    def prior(self, like: Tensor) -> StepDistribution:
        """The distribution that the chain tends to, for states `(B, ...)` of the shape, dtype and device of `like`."""

    @abstractmethod
    def prior_sample(self, shape: tuple[int, ...], noise: Tensor | torch.Generator | None = None) -> Tensor:
        """Draws `(B, ...)` of the prior."""

    def perturb(self, x0: Tensor, t: Tensor | int, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A draw of x_t from q(x_t | x₀).

        Args:
            x0: Data `(B, ...)`.
            t: Steps, `()` or `(B,)`.
            noise: Draws of the shape of `x0`, or the generator to draw them with.

        Raises:
            ValueError: Data or steps that the chain does not have, or noise of another shape.
        """
        return self.marginal(x0, t).sample(noise)

    def forward_step(self, x: Tensor, t: Tensor | int, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A draw of x_t from q(x_t | x_{t−1}), for states x_{t−1} `(B, ...)`."""
        return self.transition(x, t).sample(noise)

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """The log-density or log-probability of z `(B, ...)` under the prior, `(B,)` float64 in nats."""
        return self.prior(z).log_prob(z)

    def thinned(self: _Self, steps: Iterable[int] | Tensor) -> _Self:
        """The chain at some of its steps alone, which has the same q(x_t | x₀) there.

        Step i of the new chain has 1 − β = ᾱ_{t_i}/ᾱ_{t_(i−1)}: a strided chain (Nichol & Dhariwal 2021, section 4).

        Args:
            steps: Steps t_1 < t_2 < ..., at least two.

        Raises:
            ValueError: Steps that do not increase, or that the chain does not have.
        """
        t = self.check_steps(torch.as_tensor(list(steps) if not isinstance(steps, Tensor) else steps).cpu())
        if t.ndim != 1 or len(t) < 2 or not bool((t.diff() > 0).all()):
            raise ValueError(f"steps are {t.tolist()}, expected at least two that increase")
        log_signal = self._log_signal(torch.cat((t.new_zeros(1), t)))
        thin = copy.copy(self)
        thin._set(-torch.expm1(log_signal.diff()))
        return thin

    def __repr__(self) -> str:
        parts = [f"betas={Levels(self.betas.tolist())!r}", *(f"{k}={v!r}" for k, v in self._settings().items())]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chain):
            return NotImplemented
        mine, its = ({"betas": c.betas, **c._settings()} for c in (self, other))
        return type(self) is type(other) and equal(mine, its)

    def __hash__(self) -> int:
        return hash((type(self), self.steps, float(self.betas[0].detach()), float(self.betas[-1].detach())))

    def _settings(self) -> dict[str, object]:
        """Values beside β that make the chain what it is, by their names."""
        return {}
