"""Class labels of a batch: checked, and looked up."""

import torch
from torch import Tensor, nn

__all__ = ["check_label_options", "check_labels", "dropped", "looked_up"]


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


def dropped(labels: Tensor, rate: float) -> Tensor:
    """Which labels are dropped, `(B, 1)` boolean, drawn from torch's global generator."""
    return (torch.rand(labels.shape, device=labels.device) < rate)[:, None]
