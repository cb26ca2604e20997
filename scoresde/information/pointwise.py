"""The information that something tells about each sample, and in the mean about all."""

import math
from dataclasses import dataclass

from torch import Tensor

from scoresde.numerics.html import mean_with_error, rms, with_error
from scoresde.numerics.means import mean_and_error

__all__ = ["PointwiseInformation"]


@dataclass(frozen=True)
class PointwiseInformation:
    """Information about each sample, from draws of noise.

    Attributes:
        nats: log p(x | y) − log p(x) of each sample, `(B,)` float64.
        stderr: Standard errors of `nats` from the draws, `(B,)`.
    """

    nats: Tensor
    stderr: Tensor

    @property
    def mutual_information(self) -> tuple[float, float]:
        """The mean in nats and its standard error over samples, which holds the draws' as well."""
        return mean_and_error(self.nats)

    @property
    def bits(self) -> tuple[float, float]:
        """The mean in bits and its standard error."""
        mean, error = self.mutual_information
        return mean / math.log(2), error / math.log(2)

    def _means(self) -> str:
        return f"{mean_with_error(self.nats)} nats, {with_error(*self.bits)} bits"

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("mutual information", self._means()),
            ("standard error from draws", f"{rms(self.stderr):.2g} nats a sample, RMS"),
        ]
