"""The axes of samples that stay in their file: as for arrays in memory, worked out on one sample of places."""

from collections.abc import Callable

import numpy as np

from scoresde.data.lazy_arrays import ArrayRows, LazyArray

__all__ = ["arranged"]


def arranged(array: LazyArray, arrange: Callable[[np.ndarray], np.ndarray]) -> ArrayRows:
    """The rows of an array as samples, with the axes that a function of arrays gives them.

    The function is called with an array of the same shape whose rows are all the places 0 .. D-1 in a row, which takes
    the memory of one; what it makes of them says from where in a row each value of a sample is to be taken.

    Args:
        array: The array `(N, ...)`.
        arrange: Moves and divides the axes of an array but the first.
    """
    places = np.arange(int(np.prod(array.shape[1:], dtype=np.int64))).reshape(1, *array.shape[1:])
    made = arrange(np.broadcast_to(places, array.shape))
    order = made[0].ravel() if len(made) else np.arange(0)
    straight = bool((order == np.arange(len(order))).all())
    return ArrayRows(array, made.shape[1:], None if straight else order)
