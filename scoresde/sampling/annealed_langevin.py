"""Annealed Langevin dynamics, level by level, as NCSN and NCSNv2 sample (Song & Ermon 2019 and 2020, algorithm 1).

References:
    Song & Ermon 2019, Generative modeling by estimating gradients of the data distribution,
        https://arxiv.org/abs/1907.05600
    Song & Ermon 2020, Improved techniques for training score-based generative models,
        https://arxiv.org/abs/2006.09011
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value, positive, whole_number
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde.noise_levels import langevin_step

__all__ = ["NCSN", "NCSNv2"]


@checked
class _LevelByLevel(Value, Solver, ABC):
    """T Langevin steps at every time of the grid, the first included, and nothing else between.

    In y = x/α, whose noise levels are s_i = σ_i/α_i, a step of relative size h is

        y ← y + h s_i² ∇ log p(y) + √(2h) s_i z.

    The state goes from one time to the next as the same y; under a variance-exploding SDE it is x itself.

    Args:
        epsilon: Step size ε at the last level; that of `langevin_step` for the grid's ratio of levels if not given.
        steps: Number T of steps at each time.

    Raises:
        ValueError: A step size that is not positive, or no step; at the solve, a step size that is too large for the
            last level.
    """

    def __init__(self, epsilon: float | None = None, steps: int = 5) -> None:
        if epsilon is not None:
            positive("epsilon", epsilon)
        self.epsilon = epsilon
        self.steps = whole_number("steps", steps)

    @property
    def draws_white(self) -> bool:
        return True

    @property
    @abstractmethod
    def share(self) -> float:
        """The factor of the score in a step, in units of ε."""

    def relative_step(self, levels: Tensor) -> float:
        """The step h in units of the squared noise level, the same at every level.

        Args:
            levels: Noise levels σ/α at the times of the grid, `(n + 1,)`, decreasing.

        Raises:
            ValueError: A step of 2 or more, with which the dynamics diverge.
        """
        first, last = float(levels[0]), float(levels[-1])
        if self.epsilon is None:
            return langevin_step((first / last) ** (1 / (len(levels) - 1)), self.steps)
        step = self.share * self.epsilon / last**2
        if step >= 2:
            raise ValueError(
                f"epsilon is {self.epsilon:g}, and a step at the last level, σ/α = {last:.3g}, diverges from "
                f"{2 * last**2 / self.share:.3g} on: give a smaller one, or none for the one that suits the levels"
            )
        return step

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde = model.sde
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        step = self.relative_step(sde.noise_level(times))
        # h s² α² score = −h σ ε̂ in x.
        push = model.prediction(times, torch.zeros_like(times), -step * sigma)
        spread = (math.sqrt(2 * step) * sigma).tolist()
        scale = [1.0, *(alpha[1:] / alpha[:-1]).tolist()]
        for i in range(len(times)):
            x = x if scale[i] == 1 else scale[i] * x
            for _ in range(self.steps):
                x = torch.add(x + push(x, i), noise(), alpha=spread[i])
            if i > 0:
                yield x


class NCSN(_LevelByLevel):
    """Annealed Langevin dynamics of NCSN (Song & Ermon 2019, algorithm 1).

    T times at every level σ_1 > ... > σ_L, with α_i = ε σ_i²/σ_L²,

        x ← x + ½ α_i score(x, σ_i) + √α_i z.

    The published settings are L = 10, σ from 1 to 0.01, T = 100 and ε = 2e-5, without a denoising step at the end. The
    authors' program takes the double step of `NCSNv2` at this ε.

    Args:
        epsilon: Step size ε at the last level; technique 4 of NCSNv2, twice that of `NCSNv2`, if not given.
        steps: Number T of steps at each level.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import NCSNSDE
    >>> sde = NCSNSDE(levels=10, sigma_min=0.01, sigma_max=1.0)
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> times = torch.arange(10, 0, -1, dtype=torch.float64) / 10
    >>> start, z = torch.randn(5, 1).double(), torch.randn(5, 1).double()
    >>> *_, solved = NCSN(epsilon=2e-5, steps=3).solve(model, start, times, lambda: z)
    >>> x, sigma = start, sde.sigma(times)
    >>> for i in range(10):
    ...     alpha = 2e-5 * sigma[i]**2 / sigma[-1]**2
    ...     for _ in range(3):
    ...         x = x + alpha / 2 * model.score(x, times[i]) + alpha.sqrt() * z
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True
    """

    def __init__(self, epsilon: float | None = None, steps: int = 100) -> None:
        super().__init__(epsilon, steps)

    @property
    def share(self) -> float:
        return 0.5


class NCSNv2(_LevelByLevel):
    """Annealed Langevin dynamics of NCSNv2 (Song & Ermon 2020, algorithm 1).

    T times at every level σ_1 > ... > σ_L, with α_i = ε σ_i²/σ_L²,

        x ← x + α_i score(x, σ_i) + √(2 α_i) z,

    and at the end x + σ_L² score(x, σ_L), the denoising step of Jolicoeur-Martineau et al. 2021, which is that of
    `Sampler(denoise=True)`. Without an ε it is chosen as in technique 4 (`scoresde.sde.noise_levels.langevin_step`).

    Args:
        epsilon: Step size ε at the last level; that of technique 4 if not given.
        steps: Number T of steps at each level.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import NCSNSDE
    >>> sde = NCSNSDE(levels=232, sigma_min=0.01, sigma_max=50.0)
    >>> times = torch.arange(232, 0, -1, dtype=torch.float64) / 232
    >>> round(1e-4 * NCSNv2(steps=5).relative_step(sde.noise_level(times)), 7)  # ε for CIFAR-10; 6.2e-6 in the paper
    6.2e-06

    References:
        Jolicoeur-Martineau et al. 2021, Adversarial score matching and improved sampling for image generation,
            https://arxiv.org/abs/2009.05475
    """

    def __init__(self, epsilon: float | None = None, steps: int = 5) -> None:
        super().__init__(epsilon, steps)

    @property
    def share(self) -> float:
        return 1.0
