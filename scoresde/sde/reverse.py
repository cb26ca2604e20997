"""The reverse-time SDE in the form that torchsde integrates."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import expand_to

__all__ = ["ReverseSDE", "Scored"]


@runtime_checkable
class Process(Protocol):
    """A forward SDE as its reversal needs it; `scoresde.sde.SDE` is one."""

    t_min: float
    t_max: float

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift f(t) x."""
        ...

    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion g(t)."""
        ...


@runtime_checkable
class Scored(Protocol):
    """A model with a score; `scoresde.score.ScoreModel` is one."""

    sde: Any

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample; None if unknown."""
        ...

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score ∇ₓ log p_t(x)."""
        ...


@checked
class ReverseSDE(torch.nn.Module):
    """The reverse-time SDE (Anderson 1982; Song et al. 2021, eq. 6) in the form that torchsde integrates.

    torchsde runs forwards, so its time is s = t_max − t, from 0 to t_max − t_min, and its state is flat:
    `(B, D)`, where D is the number of elements of one sample.

    The noise is that of `torchsde.sdeint`: unless `bm` is given, a path whose seed comes from NumPy's global generator,
    and which depends on the size of the batch and its dtype. With `scoresde.sampling.TorchSDE`, sample i is a function
    of the seed and of i.

    Args:
        sde: The forward SDE.
        model: The score model.
        shape: Shape of one sample as the model takes it; `(D,)` if not given.

    References:
        Anderson 1982, Reverse-time diffusion equation models, https://doi.org/10.1016/0304-4149(82)90051-5
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
    """

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, sde: Process, model: Scored, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.sde = sde
        self.model = model
        self.shape = shape

    def f(self, s: Tensor, x: Tensor) -> Tensor:
        """Drift −f(t) x + g(t)² ∇ log p_t(x), `(B, D)`."""
        t = self._time(s)
        event = x if self.shape is None else x.reshape(-1, *self.shape)
        score = self.model.score(event, t).reshape(x.shape)
        return expand_to(self.sde.diffusion(t) ** 2, x) * score - self.sde.drift(x, t)

    def g(self, s: Tensor, x: Tensor) -> Tensor:
        """Diffusion g(t), the same in every coordinate, `(B, D)`."""
        return expand_to(self.sde.diffusion(self._time(s)), x).expand_as(x)

    def _time(self, s: Tensor) -> Tensor:
        # Computed in float64, since float32 rounds t_max − s by more than t_min; clamped, since s may be rounded.
        return (self.sde.t_max - s.double()).clamp(self.sde.t_min, self.sde.t_max)
