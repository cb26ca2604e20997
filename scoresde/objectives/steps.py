"""Distributions of the steps t = 1 ... T of a Markov chain at which a loss is evaluated.

The loss is the mean over the steps, so that T times it is their sum. Times are t_max t/T: those of the table of a
discrete SDE, and else evenly spaced.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described, fraction, whole_number
from scoresde.objectives.times import Times
from scoresde.sde import SDE, DiscreteVESDE, DiscreteVPSDE

__all__ = ["LossHistory", "StepTimes", "UniformSteps"]


@checked
class StepTimes(Times):
    """A distribution of the steps of a chain.

    Args:
        steps: Number T of steps. If not given, that of the SDE's own table.

    Raises:
        ValueError: Fewer than two steps.
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps = None if steps is None else whole_number("steps", steps, at_least=2)

    def __repr__(self) -> str:
        return described(self)

    def count(self, sde: SDE) -> int:
        """The number T of steps under an SDE.

        Raises:
            ValueError: Neither a number of steps nor an SDE with a table of them.
        """
        if self.steps is not None:
            return self.steps
        if isinstance(sde, DiscreteVPSDE):
            return len(sde.betas)
        if isinstance(sde, DiscreteVESDE):
            return len(sde.sigmas)
        raise ValueError(
            f"{type(self).__name__} has no steps, and {type(sde).__name__} no table of them: give "
            "objective.times.steps, such as 1000, or take sde=ddpm"
        )

    def begin(self, sde: SDE, device: torch.device) -> None:
        self.count(sde)

    @abstractmethod
    def draw(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        """Steps `(B,)` int64 for uniforms u in [0, 1], `(B,)`, and corrections `(B,)` float64."""

    def sample(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        step, correction = self.draw(sde, u)
        return self.time(sde, step), correction

    def time(self, sde: SDE, step: Tensor) -> Tensor:
        """The times of steps `(B,)`, float64."""
        # Round-off must not carry t over an end of the interval.
        return (sde.t_max * step.double() / self.count(sde)).clamp(sde.t_min, sde.t_max)

    def step(self, sde: SDE, t: Tensor) -> Tensor:
        """The steps `(B,)` int64 of times that `time` gave."""
        return (t / sde.t_max * self.count(sde)).round().long().clamp(1, self.count(sde))


class UniformSteps(StepTimes):
    """Every step with the same probability (Ho et al. 2020, algorithm 1), or every noise level of NCSN.

    Args:
        steps: Number T of steps. If not given, that of the SDE's own table.

    >>> from scoresde.sde import DDPMSDE
    >>> times, _ = UniformSteps().sample(DDPMSDE(4), torch.tensor([0.0, 0.49, 0.5, 1.0]))
    >>> times.tolist()
    [0.25, 0.5, 0.75, 1.0]
    """

    def draw(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        count = self.count(sde)
        step = (u.double() * count).long().clamp(max=count - 1) + 1
        return step, torch.ones_like(u, dtype=torch.float64)


@checked
class LossHistory(StepTimes):
    """Steps in proportion to the root of the mean square of their last losses (Nichol & Dhariwal 2021, section 3.3).

    The loss is divided by the probability, so that its expectation is that of `UniformSteps` and its variance is least
    if the losses are what they were. Until every step has been drawn `history` times all have the same probability.

    The trainer adds the losses of each batch, of all its processes, and keeps them in checkpoints. It is empty when
    training begins.

    Args:
        steps: Number T of steps. If not given, that of the SDE's own table.
        history: Number of losses that are kept of every step.
        uniform: Share of the draws that are uniform, which bounds the weight of a step whose losses were small.

    Raises:
        ValueError: Fewer than two steps, no losses, or a share outside (0, 1].

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021), https://arxiv.org/abs/2102.09672
    """

    remembers = True

    def __init__(self, steps: int | None = None, history: int = 10, uniform: float = 0.001) -> None:
        super().__init__(steps)
        self.history = whole_number("history", history, at_least=1)
        fraction("uniform", uniform)
        self.uniform = uniform
        self._losses = torch.zeros(0, self.history, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)

    def begin(self, sde: SDE, device: torch.device) -> None:
        """Forget all losses, and make room for those under an SDE."""
        # One row more than there are steps, for what is not kept.
        rows = self.count(sde) + 1
        self._losses = torch.zeros(rows, self.history, dtype=torch.float64, device=device)
        self._counts = torch.zeros(rows, dtype=torch.int64, device=device)

    def probabilities(self) -> Tensor:
        """The probabilities of the steps 1 ... T, `(T,)` float64; uniform until all have their losses."""
        count = len(self._counts) - 1
        roots = self._losses[:count].square().mean(1).sqrt()
        even = torch.full_like(roots, 1 / count)
        # Without a look at the numbers, which may be on another device.
        full = (self._counts[:count] >= self.history).all() & (roots.sum() > 0)
        mixed = (1 - self.uniform) * roots / roots.sum() + self.uniform / count
        return torch.where(full, mixed, even)

    def draw(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        if len(self._counts) != self.count(sde) + 1 or self._counts.device != u.device:
            self.begin(sde, u.device)
        chances = self.probabilities()
        ends = chances.cumsum(0)
        place = torch.searchsorted(ends, u.double() * ends[-1], right=True).clamp(max=len(chances) - 1)
        return place + 1, 1 / (len(chances) * chances[place])

    def remember(self, steps: Tensor, losses: Tensor) -> None:
        """Add the losses `(B,)` of the steps `(B,)` of a batch; those that are not finite are left out.

        Losses of the same step count in their order in the batch.
        """
        spare = len(self._counts) - 1
        place = torch.where(losses.isfinite(), steps - 1, torch.full_like(steps, spare))
        place, order = place.sort(stable=True)
        number = torch.arange(len(place), device=place.device)
        earlier = number - torch.searchsorted(place, place)
        later = torch.searchsorted(place, place, right=True) - number - 1
        column = (self._counts[place] + earlier) % self.history
        # Of more losses than there is room for, the last are kept, so that none is written twice.
        row = torch.where(later < self.history, place, torch.full_like(place, spare))
        self._losses[row, column] = losses[order].double().nan_to_num()
        self._counts.index_add_(0, place, torch.ones_like(place))

    def state_dict(self) -> dict[str, Tensor]:
        """The losses `(T, history)` and how many there were of each step, `(T,)`."""
        return {"losses": self._losses[:-1].clone(), "counts": self._counts[:-1].clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put what `state_dict` gave into the place of the losses."""
        self._losses[:-1], self._counts[:-1] = state["losses"], state["counts"]
