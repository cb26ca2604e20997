"""The loss by noise level, and the sums of losses since the last entry of the log."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.objectives import Loss, loss_by_noise_level
from scoresde.storage.tensors import check_tensor
from scoresde.training.resuming import check_counts

__all__ = ["LossRecord", "NoiseLevels"]

_BINS = 24


class NoiseLevels:
    """Running sums of the loss in bins of λ = log(α/σ), on the device.

    Args:
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        bins: Number of bins.
        device: Device of the sums.
    """

    def __init__(self, low: float, high: float, bins: int, device: torch.device) -> None:
        self.edges = torch.linspace(low, high, bins + 1, device=device)
        self.reset()

    def reset(self) -> None:
        """Forget what was added."""
        self._sum = torch.zeros(len(self.edges) - 1, dtype=torch.float64, device=self.edges.device)
        self._count = torch.zeros_like(self._sum)

    def add(self, log_snr: Tensor, loss: Tensor) -> None:
        """Add losses `(B,)` of samples at λ of `log_snr` `(B,)`."""
        # One sample that is not finite must not hide the rest of its bin.
        good = loss.isfinite()
        mean, count = loss_by_noise_level(torch.where(good, log_snr, torch.inf), loss.nan_to_num(), self.edges)
        self._sum += torch.where(count > 0, mean * count, torch.zeros_like(self._sum))
        self._count += count

    def gather(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by those of all processes, which `total` computes."""
        self.load(self.state(total))

    def state(self, total: Callable[[Tensor], Tensor]) -> Tensor:
        """`(2, bins)` sums and counts of all processes, by `total`."""
        return total(torch.stack((self._sum, self._count)))

    def load(self, state: Tensor) -> None:
        """Replace the sums and counts by those of `state`."""
        self._sum, self._count = state.to(self.edges.device, torch.float64).unbind()

    def curve(self) -> tuple[list[float], list[float]]:
        """Centres of the bins that have samples, and the mean loss in each."""
        centres = ((self.edges[1:] + self.edges[:-1]) / 2).tolist()
        sums, counts = self._sum.tolist(), self._count.tolist()
        kept = [(c, s / n) for c, s, n in zip(centres, sums, counts, strict=True) if n > 0]
        return [c for c, _ in kept], [v for _, v in kept]


class LossRecord:
    """Losses since the last entry of the log; the sums stay on the device, and over all processes by `total`.

    Args:
        log_snr_range: Smallest and largest λ at which the model is trained.
        device: Device of the sums.
        total: Sum of a tensor over the processes that share the work.
        count: Number of these processes.
    """

    def __init__(
        self, log_snr_range: tuple[float, float], device: torch.device, total: Callable[[Tensor], Tensor], count: int
    ) -> None:
        self.levels = NoiseLevels(*log_snr_range, _BINS, device)
        self._total, self._count = total, count
        self._sum = torch.zeros((), device=device)
        self.step, self.skipped = 0, 0

    def add(self, loss: Loss, skipped: Tensor) -> None:
        """Add the loss of a step, whose mean counts only if the step was not skipped."""
        self.levels.add(loss.log_snr, loss.per_sample)
        self._sum = self._sum + torch.where(skipped, torch.zeros_like(loss.value), loss.value).detach()

    def mean(self, step: int, skipped: int) -> float:
        """Mean loss since the last entry; NaN if all steps were skipped.

        Args:
            step: Number of the step.
            skipped: Number of steps skipped so far.
        """
        good = step - self.step - (skipped - self.skipped)
        return float(self._total(self._sum)) / (good * self._count) if good else math.nan

    def curve(self) -> tuple[list[float], list[float]]:
        """Centres of the bins of λ and the mean losses in them, over all processes."""
        self.levels.gather(self._total)
        return self.levels.curve()

    def reset(self, step: int, skipped: int) -> None:
        """Begin anew after an entry of the log at `step`, when `skipped` steps had been skipped."""
        self.levels.reset()
        self._sum = torch.zeros_like(self._sum)
        self.step, self.skipped = step, skipped

    def state(self) -> dict[str, Any]:
        """Entry of a checkpoint."""
        return {
            "since": self.step,
            "skipped": self.skipped,
            "loss": self._total(self._sum) / self._count,
            "levels": self.levels.state(self._total),
        }

    def checked(self, state: dict[str, Any]) -> dict[str, Any]:
        """The `log` of a checkpoint's `state`; zeros for a checkpoint of an older version, which has none.

        Raises:
            ValueError: Sums of another shape, or values that no training has.
        """
        nothing = {"since": state["step"], "skipped": state["skipped"], "loss": torch.zeros(())}
        nothing["levels"] = torch.zeros_like(self.levels.state(lambda x: x))
        log = state.get("log", nothing)
        if not isinstance(log, dict):
            raise ValueError("the sums of the log are missing")
        check_tensor(log.get("loss"), nothing["loss"], "the log's loss")
        check_tensor(log.get("levels"), nothing["levels"], "the log's loss by noise level")
        check_counts({"step": log.get("since"), "skipped": log.get("skipped"), "seconds": 0})
        if log["since"] > state["step"] or log["skipped"] > state["skipped"]:
            raise ValueError("the log is ahead of the step")
        return log

    def load(self, log: dict[str, Any], first: bool) -> None:
        """Resume from what `checked` returned; only the `first` process takes the sums, which are over all."""
        self.step, self.skipped = log["since"], log["skipped"]
        if first:
            self._sum = (log["loss"] * self._count).to(self._sum)
            self.levels.load(log["levels"])
