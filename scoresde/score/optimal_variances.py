"""The variances of reverse steps that suit a model best, from its mean-square errors at some noise levels.

The reverse step from t to s with the mean of the posterior q(x_s | x_t, x₀ = D), D the denoised mean of the model, has
the highest variational bound with one variance for all elements if that is

    b = β̃ + k² E‖x₀ − D‖²/D_x = β̃ + k² (σ/α)² E‖ε̂ − ε‖²/D_x,

with the posterior's variance β̃, its factor k of x₀ and the number D_x of elements. Expectations are over data and
noise.
With exact scores E‖ε̂ − ε‖² = D_x − E‖ε̂‖², and it is Analytic-DPM's variance (Bao et al. 2022a, theorem 1); with others
it stays the best for the mean that the model has (Bao et al. 2022b, theorem 2). E‖ε̂ − ε‖²/D_x is a function of the
noise level alone, so that one measurement serves steps of any grid under any SDE.

References:
    Analytic-DPM: an analytic estimate of the optimal reverse variance in diffusion probabilistic models (Bao et al.
    2022a), https://arxiv.org/abs/2201.06503
    Estimating the optimal covariance with imperfect mean in diffusion probabilistic models (Bao et al. 2022b),
    https://arxiv.org/abs/2206.07309
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["OptimalVariances"]

_FORMAT = "scoresde-variances-1"


@checked
@dataclass(frozen=True)
class OptimalVariances:
    """Mean squares of a model's errors by noise level, and what it took to measure them.

    Attributes:
        log_snr: Noise levels λ = log(α/σ), at least two, increasing.
        error: E‖ε̂ − ε‖²/D at each, positive.
        error_stderr: Their standard errors, NaN where they are not known.
        noise: E‖ε̂‖²/D at each, of which 1 − E‖ε̂‖²/D is the same for exact scores.
        samples: Number of samples at each level.
        seconds: The time that it took.

    Raises:
        ValueError: Levels that do not increase, other numbers of values, or errors that are not positive.

    >>> found = OptimalVariances([-1.0, 1.0], [0.1, 0.9], [0.0, 0.0], [0.9, 0.1])
    >>> [round(float(v), 3) for v in found.at(torch.tensor([-1.0, 0.0, 1.0, 2.0]))]
    [0.1, 0.3, 0.9, 0.9]
    """

    FILE: ClassVar[str] = "variances.json"
    """The name of the file in the directory of a run."""

    log_snr: Sequence[float]
    error: Sequence[float]
    error_stderr: Sequence[float]
    noise: Sequence[float]
    samples: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        counts = {len(values) for values in (self.log_snr, self.error, self.error_stderr, self.noise)}
        if len(counts) != 1 or len(self.log_snr) < 2:
            raise ValueError(
                f"got {sorted(counts)} values of levels and errors, expected as many, at least two, of each"
            )
        if not all(a < b for a, b in zip(self.log_snr[:-1], self.log_snr[1:], strict=True)):
            raise ValueError("log_snr does not increase, expected noise levels in their order, the largest noise first")
        if not all(0 < value < math.inf for value in self.error):
            raise ValueError("error has values that are not positive and finite, expected mean squares")

    def at(self, log_snr: Tensor) -> Tensor:
        """E‖ε̂ − ε‖²/D at noise levels, float64 of the shape of `log_snr`.

        Its logarithm is linear between the levels. Beyond the smallest noise it stays, and beyond the largest it falls
        with (α/σ)², as that of data of any width does.
        """
        levels, values = (torch.tensor(list(v), dtype=torch.float64) for v in (self.log_snr, self.error))
        values = values.log()
        at = log_snr.detach().to("cpu", torch.float64)
        inside = at.clamp(float(levels[0]), float(levels[-1]))
        i = (torch.searchsorted(levels, inside.contiguous(), right=True) - 1).clamp(0, len(levels) - 2)
        share = (inside - levels[i]) / (levels[i + 1] - levels[i])
        found = values[i] + share * (values[i + 1] - values[i]) + 2 * (at - levels[0]).clamp(max=0)
        return found.exp()

    def step_variances(self, least: Tensor, on_data: Tensor, log_snr: Tensor) -> Tensor:
        """The best variances b of reverse steps, float64 on the CPU.

        Args:
            least: Variances β̃ of the posterior, `(n,)`.
            on_data: Factors k of x₀ in its mean, `(n,)`.
            log_snr: Log-SNR of the states from which the steps go, `(n,)`.
        """
        return least + on_data.square() * (-2 * log_snr).exp() * self.at(log_snr)

    def to_json(self) -> str:
        """The text of the file."""
        plain = {key: list(v) if isinstance(v, Sequence) else v for key, v in asdict(self).items()}
        return json.dumps({"format": _FORMAT, **plain}, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, which `load` reads."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "OptimalVariances":
        """Read a file that `save` wrote; reading it executes nothing, whoever it is from.

        Raises:
            ValueError: A file of another format, or one whose numbers are outside their ranges.
        """
        from scoresde.storage.bounded import read_json

        try:
            content: dict[str, Any] = read_json(Path(path), dict)
            if content.pop("format") != _FORMAT:
                raise ValueError
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a file of variances: make it anew, by `scoresde tune run=DIR variances=true`"
            ) from error
