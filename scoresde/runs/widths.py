"""The widths of a run's samples along the principal directions of its data."""

from torch import Tensor

from scoresde.data import Data
from scoresde.metrics import PrincipalDirections, principal_directions
from scoresde.statistics import Statistics

__all__ = ["run_directions"]

_ELEMENTS = 2**23  # of the training data in which directions are found: some seconds, for images of any size


def run_directions(data: Data, test: Tensor, statistics: Statistics | None) -> PrincipalDirections:
    """The principal directions of a run's training data, with the variances of held-out data along them.

    Directions and variances come from different data, so that samples like the data are neither too wide nor too narrow
    in any direction. Data of levels have the resolution of these.

    Args:
        data: The data.
        test: Held-out data in model space, `(N, ...)`.
        statistics: Moments of the training data; if there are none, or none with a covariance, the directions are
            found in the first of the training data.
    """
    if statistics is not None and statistics.covariance is not None:
        directions = statistics.eigh()[1]
    else:
        count = max(2, _ELEMENTS // data.train[0].numel())
        directions = principal_directions(data.transform.encode(data.train[:count]))
    return PrincipalDirections.along(directions, test, data.transform.resolution or None)
