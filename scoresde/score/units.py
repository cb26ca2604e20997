"""A warning of data that seem to be in other units than the model's."""

import warnings

from torch import Tensor

from scoresde.data.transforms import Transform
from scoresde.statistics import Statistics

__all__ = ["warn_of_units"]

# Distance from the mean in standard deviations of the model's data from which data seem to be in other units; or, of
# at least so many samples, the inverse of it.
_FAR, _MIN_SAMPLES = 5.0, 16


def warn_of_units(encoded: Tensor, transform: Transform, statistics: Statistics | None, stacklevel: int) -> None:
    """Warn if encoded data are far from the model's data, or much closer to their mean; on the CPU only.

    Args:
        encoded: Data in model space, `(B, ...)`.
        transform: The transform by which they were encoded.
        statistics: Mean and covariance of the model's data, if they are known.
        stacklevel: Depth of the caller whom the warning names, as for `warnings.warn`.
    """
    if statistics is None or encoded.device.type != "cpu" or not encoded.numel():
        return
    distance = (encoded.detach().double() - statistics.mean.cpu()).square().mean().sqrt()
    apart = float(distance / statistics.std.cpu())
    if apart > _FAR or (len(encoded) >= _MIN_SAMPLES and apart < 1 / _FAR):
        warnings.warn(
            f"the root mean square distance of x from the mean of the model's data is {apart:.2g} of their "
            f"standard deviations: x is expected in the data's units, not as {transform!r} encodes them",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
