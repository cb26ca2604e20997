"""A check that two sets of samples are in the same units, before any distance between them is computed."""

import torch
from torch import Tensor

__all__ = ["require_same_units"]

# Smallest ratio of standard deviations at which one set counts as much wider: that of raw pixels of nine levels and the
# range from −1 to 1 of a model.
_WIDER = 4.0
_ADVICE = "encode both with the data's transform, Data.transform.encode"


def require_same_units(a: Tensor, b: Tensor, names: tuple[str, str] = ("generated", "reference")) -> None:
    """Reject raw values on one side of a comparison.

    Poor samples can be far from the data, much wider or much narrower, so none of these is rejected alone. Integers on
    one side only are rejected, and so are two sets of which one is much wider and either has only integer values while
    the other has not (pixels), or is so far away that both sets together fit between them (kelvins).

    Args:
        a: One set, `(N, ...)`.
        b: The other, `(M, ...)`.
        names: Names of the sets in the message.

    Raises:
        ValueError: Sets that are not in the same units.
    """
    a, b = a.detach(), b.detach()
    kinds = [x.is_floating_point() for x in (a, b)]
    if kinds[0] != kinds[1]:
        raw = kinds.index(False)
        raise ValueError(
            f"the {names[raw]} samples have dtype {str((a, b)[raw].dtype).removeprefix('torch.')}, as raw values "
            f"have, and the {names[1 - raw]} ones are floating point: {_ADVICE}"
        )
    if a.numel() < 2 or b.numel() < 2:
        return
    widths = float(a.double().std()), float(b.double().std())
    if not max(widths) >= _WIDER * min(widths) > 0:
        return
    ranges = [tuple(float(v) for v in torch.aminmax(x)) for x in (a, b)]
    (low_a, high_a), (low_b, high_b) = ranges
    far = max(low_a - high_b, low_b - high_a) > (high_a - low_a) + (high_b - low_b)
    whole = [bool((x == x.round()).all()) for x in (a, b)]
    if far or whole[0] != whole[1]:
        described = [
            f"the {name} samples are {'integers ' if w and not all(whole) else ''}from {low:.4g} to {high:.4g}"
            for name, w, (low, high) in zip(names, whole, ranges, strict=True)
        ]
        raise ValueError(f"{', '.join(described)}, which are not the same units: {_ADVICE}")
