"""The sizes of samples that a network takes, and how many levels of a U-Net suit them."""

import math
from collections.abc import Sequence

__all__ = ["check_divisible", "check_sizes", "default_multipliers", "fits", "kind", "shown"]

_KINDS = ("signals", "images", "volumes")
_COARSEST = (64, 32, 8)  # largest side of the coarsest level by default, for 1, 2 and 3 dimensions


def kind(shape: Sequence[int]) -> str:
    """What samples of a shape are: signals, images or volumes."""
    return _KINDS[len(shape) - 2]


def fits(shape: Sequence[int]) -> bool:
    """Whether samples of a shape are such that a U-Net suits them, without being told what they are.

    Images and volumes have more than one pixel. Signals are at least 16 long, and 4 times as long as they have
    channels, since samples of two sizes of the same order may be images without a dimension of channels.

    >>> fits((3, 32, 32)), fits((2, 100)), fits((28, 28)), fits((1, 16, 16, 16)), fits((5,))
    (True, True, False, True, False)
    """
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        return False
    if len(shape) == 2:
        return shape[1] >= max(16, 4 * shape[0])
    return max(shape[1:]) > 1


def default_multipliers(shape: Sequence[int]) -> tuple[int, ...]:
    """Multipliers for samples of a shape: at least two, and so many that the coarsest level is small.

    Its longest side is up to 64 for signals, 32 for images and 8 for volumes.
    """
    return (1,) + (2,) * max(1, math.ceil(math.log2(max(shape[1:]) / _COARSEST[len(shape) - 2])))


def check_sizes(shape: tuple[int, ...], levels: int, exact: bool) -> None:
    """Check that samples of a shape can be halved so often, which the message counters by the nearest that can.

    Args:
        shape: Shape of one sample, `(C, ...)`.
        levels: Number of levels, one more than that of halvings.
        exact: Only even sizes can be halved. Otherwise an odd one is halved to the next larger integer.

    Raises:
        ValueError: A shape of another kind or size.
    """
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise ValueError(
            "UNet takes signals (channels, length), images (channels, height, width) and volumes (channels, depth, "
            f"height, width), of positive sizes, and the data's shape is {shape}: MLP (network=mlp) takes any shape"
        )
    if levels < 1:
        raise ValueError("multipliers must give at least one level, got none")
    kind, sizes = _KINDS[len(shape) - 2], shape[1:]
    unit = 2 ** (levels - 1)
    if exact and any(size % unit for size in sizes):
        above = tuple(math.ceil(size / unit) * unit for size in sizes)
        below = tuple(size // unit * unit for size in sizes)
        nearest = shown(above) if 0 in below else f"{shown(below)} and {shown(above)}"
        raise ValueError(
            f"{levels} multipliers halve {levels - 1} times, so that sizes must be multiples of {unit}, and {kind} are "
            f"{shown(sizes)}: the nearest are {nearest}; resize or pad the data, or give fewer multipliers"
        )
    most = 1 + math.ceil(math.log2(max(sizes)))
    if not exact and levels > most:
        raise ValueError(
            f"{levels} multipliers are {levels} levels, and {kind} of {shown(sizes)} are a single pixel after "
            f"{most - 1} halvings: give at most {most} multipliers"
        )


def shown(sizes: Sequence[int]) -> str:
    """Sizes as text, 28x28."""
    return "x".join(map(str, sizes))


def check_divisible(network: str, shape: tuple[int, ...], unit: int, reason: str) -> None:
    """Check that a shape is that of an image whose height and width are multiples of a unit.

    Raises:
        ValueError: Another shape; the message has the nearest one that fits, and the reason for the unit.

    >>> check_divisible("DiT", (3, 30, 33), 4, "patch=4")
    Traceback (most recent call last):
        ...
    ValueError: DiT takes images whose height and width are multiples of 4 (patch=4), and the data's are 30x33: 28x32 \
and 32x36 are the nearest that it takes
    """
    if len(shape) != 3 or min(shape) < 1:
        hint = ", and data.channels_last=true (N, H, W) as images of one channel" if len(shape) == 2 else ""
        raise ValueError(
            f"{network} takes images, whose shape is (channels, height, width), three positive sizes, and the data's "
            f"is {shape}: MLP (network=mlp) takes any shape{hint}"
        )
    if all(size % unit == 0 for size in shape[1:]):
        return
    below, above = ([size // unit * unit for size in shape[1:]], [-(-size // unit) * unit for size in shape[1:]])
    nearest = [f"{h}x{w}" for h, w in (below, above) if min(h, w) > 0]
    fits = " and ".join(nearest) + (" are the nearest that it takes" if len(nearest) == 2 else " is the nearest")
    raise ValueError(
        f"{network} takes images whose height and width are multiples of {unit} ({reason}), and the data's are "
        f"{shape[1]}x{shape[2]}: {fits}"
    )
