"""The sizes of images that a network takes."""

__all__ = ["check_divisible"]


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
