"""Samplers of other libraries as functions f(denoiser, x, sigmas), by their own noise levels; nothing is imported."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.arguments import checked

__all__ = ["AzulaSampler", "DiffusersScheduler"]


@checked
class DiffusersScheduler:
    """A scheduler of diffusers that predicts noise, at its own timesteps.

    States are without scale; a scheduler of variance-preserving states is given states of its own scale.

    Args:
        make: A function that makes the scheduler, anew for each run.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def _planned(self, steps: int) -> tuple[Any, Tensor]:
        """The scheduler with its timesteps, and the level of each of them."""
        scheduler = self.make()
        scheduler.set_timesteps(steps)
        product = scheduler.alphas_cumprod.double()
        table = ((1 - product) / product).sqrt()
        places = scheduler.timesteps.double()
        below = places.floor().long().clamp(max=len(table) - 2)
        # Some have timesteps between those of training, and the level between theirs, on a logarithmic scale or not.
        own = getattr(scheduler, "sigmas", None)
        if own is not None and len(own) == len(places) + 1:
            return scheduler, own[:-1].double()
        return scheduler, torch.lerp(table[below], table[below + 1], places - below)

    def levels(self, steps: int) -> Tensor:
        """The levels of its timesteps, and 0 in the end, `(n + 1,)`."""
        return torch.cat([self._planned(steps)[1], torch.zeros(1, dtype=torch.float64)])

    def __call__(self, denoiser: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
        scheduler, levels = self._planned(len(sigmas) - 1)
        exploding = float(scheduler.init_noise_sigma) > 1.5
        state = x if exploding else x / (1 + levels[0] ** 2).sqrt().to(x)
        for t, level in zip(scheduler.timesteps, levels, strict=True):
            scaled = scheduler.scale_model_input(state, t)
            plain = scaled * (1 + level**2).sqrt().to(x)
            noise = (plain - denoiser(plain, level)) / level.to(x)
            state = scheduler.step(noise, t, state).prev_sample
        return state


class AzulaSampler:
    """A sampler of azula, on its variance-exploding schedule from one level to another, without a last denoising.

    Args:
        make: The class of the sampler, or a function of a denoiser and of `steps`, `silent` and `dtype`.
        schedule: The schedule, such as `VESchedule(0.002, 80.0)`, with `alpha` 1.
        posterior: The class of the results of denoisers, `azula.denoise.Posterior`.
    """

    def __init__(self, make: Callable[..., Any], schedule: Any, posterior: Callable[..., Any]) -> None:
        self.make, self.schedule, self.posterior = make, schedule, posterior

    def levels(self, steps: int) -> Tensor:
        """The levels of the schedule, `(n + 1,)`, of which the last is not 0."""
        found: Tensor = self.schedule.sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        return found

    def __call__(self, denoiser: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
        inner = _AzulaDenoiser(denoiser, self.schedule, self.posterior)
        found: Tensor = self.make(inner, steps=len(sigmas) - 1, silent=True, dtype=torch.float64)(x)
        return found


class _AzulaDenoiser(nn.Module):
    """A denoiser as azula's samplers call it."""

    def __init__(self, denoiser: Callable[..., Tensor], schedule: Any, posterior: Callable[..., Any]) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.posterior = denoiser, schedule, posterior

    def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
        return self.posterior(mean=self.denoiser(x_t, self.schedule.sigma(t)))
