"""Class labels of a batch: checked, and looked up."""

import torch
from torch import Tensor, nn

__all__ = ["check_dropped", "check_label_options", "check_labels", "left_out", "looked_up", "without_label"]


def check_label_options(num_classes: int | None, label_dropout: float) -> None:
    """Check the number of classes of a network and its rate of dropped labels.

    Raises:
        ValueError: Fewer than one class, or a rate of dropped labels outside [0, 1) or without classes.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, or None for no labels, got {num_classes}")
    if not 0 <= label_dropout < 1:
        raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout}")
    if label_dropout > 0 and num_classes is None:
        raise ValueError("label_dropout needs labels to drop: set num_classes")


def check_labels(labels: Tensor | None, c_noise: Tensor, num_classes: int | None, optional: bool) -> bool:
    """Check the labels of a batch but for their range, which the look-up checks.

    Args:
        labels: Classes, `(B,)` int64, or None.
        c_noise: Noise levels, `(B,)`.
        num_classes: Number of classes of the network; None for a network without labels.
        optional: Whether the network has something in the place of labels that are None.

    Returns:
        Whether there are labels.

    Raises:
        TypeError: Labels that are not int64.
        ValueError: Labels for a network without classes, no labels for one that needs them, or another shape.
    """
    if num_classes is None:
        if labels is not None:
            raise ValueError("this network takes no labels: leave them out, or build it with num_classes")
        return False
    if labels is None:
        if not optional:
            raise ValueError(
                f"this network needs labels in [0, {num_classes}): pass labels, "
                f"or build it with label_dropout > 0 to have an unconditional class"
            )
        return False
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}: use torch.as_tensor(labels)")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}: use labels.long()")
    if labels.shape != c_noise.shape:
        raise ValueError(f"labels must have shape {tuple(c_noise.shape)}, one per sample, got {tuple(labels.shape)}")
    return True


def looked_up(classes: nn.Embedding, labels: Tensor, num_classes: int | None) -> Tensor:
    """The vectors `(B, width)` of labels `(B,)`.

    Raises:
        ValueError: Labels out of range, on the CPU only, since a check would wait for another device.
    """
    try:
        # The look-up on the CPU checks the range itself, so that there is no second pass over the labels.
        vectors: Tensor = classes(labels)
    except IndexError as error:
        raise ValueError(f"labels must be in [0, {num_classes}), got one outside: number the classes from 0") from error
    return vectors


def check_dropped(dropped: Tensor | None, c_noise: Tensor, optional: bool) -> None:
    """Check which samples of a batch are to be without their conditions.

    Args:
        dropped: True for those samples, `(B,)` boolean, or None for no sample.
        c_noise: Noise levels, `(B,)`.
        optional: Whether the network has something in the place of conditions.

    Raises:
        TypeError: Values that are not boolean.
        ValueError: Another shape, or a network that has nothing in the place of conditions.
    """
    if dropped is None:
        return
    if not isinstance(dropped, Tensor) or dropped.dtype != torch.bool:
        found = dropped.dtype if isinstance(dropped, Tensor) else type(dropped).__name__
        raise TypeError(f"dropped must be a boolean tensor, True for samples without conditions, got {found}")
    if dropped.shape != c_noise.shape:
        raise ValueError(f"dropped must have shape {tuple(c_noise.shape)}, one per sample, got {tuple(dropped.shape)}")
    if not optional:
        raise ValueError(
            "this network has nothing in the place of conditions: leave dropped out, or build it with label_dropout "
            "and condition_dropout > 0"
        )


def without_label(labels: Tensor, rate: float, dropped: Tensor | None, uniform: Tensor | None = None) -> Tensor | None:
    """Which samples are without a label, `(B, 1)` boolean; None if all have theirs. The arguments are of `left_out`."""
    without = left_out(labels, rate, dropped, uniform)
    return None if without is None else without[:, None]


def left_out(each: Tensor, rate: float, dropped: Tensor | None, uniform: Tensor | None = None) -> Tensor | None:
    """Which samples are without a condition, `(B,)` boolean; None if all have theirs.

    Args:
        each: A tensor `(B,)`.
        rate: Rate at which more are dropped; 0 outside training.
        dropped: The samples that are to be without, `(B,)` boolean, or None for no sample.
        uniform: Numbers in [0, 1), `(B,)`, below the rate for samples that are dropped; None: drawn from torch's global
            generator.
    """
    if rate > 0:
        drawn = (torch.rand(each.shape, device=each.device) if uniform is None else uniform) < rate
        dropped = drawn if dropped is None else drawn | dropped
    return dropped
