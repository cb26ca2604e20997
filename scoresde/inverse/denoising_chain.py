"""Solvers that denoise, correct the denoised mean by the measurements, and add noise again; and their way in time."""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.sampling import Solver
from scoresde.sampling.solver import Noise
from scoresde.score import ScoreModel

__all__ = ["DenoisingChain", "way"]


class DenoisingChain(Solver):
    """A solver of which each step starts from the denoised mean. A subclass gives `step` and `end`.

    It works with the state z = x/α, whose noise is s = σ/α, so that it is the same under every SDE. The state that it
    yields at the last time is the sample itself: what `end` makes of the denoised mean there, without noise.

    n steps are n + 1 evaluations, or more with jumps.
    """

    jump_length = 1
    jumps = 1

    def begin(self, z: Tensor, s: float, noise: Noise) -> Tensor:
        """The state at the first noise level, from a draw of the prior's."""
        return z

    @abstractmethod
    def step(self, z: Tensor, mean: Tensor, s: float, t: float, noise: Noise) -> Tensor:
        """The state at noise level t < s.

        Args:
            z: The state `(B, ...)` at noise level s.
            mean: The denoised mean there.
            s: The noise level.
            t: The next noise level.
            noise: Draws of standard normal noise.
        """

    @abstractmethod
    def end(self, z: Tensor, mean: Tensor, s: float) -> Tensor:
        """The sample, from the last state and its denoised mean."""

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        alpha = model.sde.alpha(times).tolist()
        level = model.sde.noise_level(times).tolist()
        one = torch.ones_like(times)
        denoised = model.prediction(times, one, 0 * one)
        last = len(times) - 1
        z, at = self.begin(x / alpha[0], level[0], noise), 0
        moves = way(last, self.jump_length, self.jumps)
        final = {index: place for place, index in enumerate(moves)}
        for place, index in enumerate(moves):
            if index > at:
                z = self.step(z, denoised(alpha[at] * z, at), level[at], level[index], noise)
            else:
                z = torch.add(z, noise(), alpha=(level[index] ** 2 - level[at] ** 2) ** 0.5)
            at = index
            if final[index] == place and index < last:
                yield alpha[index] * z
        yield self.end(z, denoised(alpha[last] * z, last), level[last])


def way(steps: int, length: int, repeats: int) -> list[int]:
    """The indices of the noise levels that a solver comes to after the first, with jumps back (Lugmayr et al. 2022).

    At every `length`-th level, counted from the last, it goes back by `length` levels and takes these steps again,
    until it has taken them `repeats` times; but not back to the first level, which is all noise.

    >>> way(4, 1, 1)
    [1, 2, 3, 4]
    >>> way(4, 2, 2)
    [1, 2, 3, 4, 2, 3, 4]
    """
    found, at = [], 0
    left = dict.fromkeys(range(steps, length, -length), repeats - 1)
    while at < steps or left.get(steps, 0):
        if left.get(at, 0):
            left[at] -= 1
            at -= length
        else:
            at += 1
        found.append(at)
    return found
