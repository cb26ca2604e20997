"""The words for what the samples of a model are."""

from scoresde.data.affine import Identity
from scoresde.data.info import DataInfo
from scoresde.data.labels import listed
from scoresde.data.transforms import Transform

__all__ = ["sample_lines"]


def sample_lines(
    shape: tuple[int, ...] | None, transform: Transform | None, info: DataInfo | None, exact: bool, classes: int | None
) -> list[str]:
    """Lines on the shape, the units and the classes of a model's samples, as far as they are known.

    Args:
        shape: Shape of a sample.
        transform: Map between the data and model space.
        info: Facts about the data.
        exact: Whether the model is the exact score of a density.
        classes: Number of classes that the model takes labels of.
    """
    lines = []
    if transform is None:
        units = "" if exact else ", of data that it does not know"
    elif transform.levels is not None:
        units = f" in model space, decoded by {transform!r}"
    else:
        units = f" in the data's units{'' if isinstance(transform, Identity) else f', by {transform!r}'}"
    if shape is not None:
        lines.append(f"  samples of shape {tuple(shape)}{units}{'' if info is None else f'; data: {info.name}'}")
    if classes is not None and info is not None and info.num_classes is not None:
        names = info.class_names or tuple(map(str, range(info.num_classes)))
        lines.append(f"  {info.num_classes} classes: {listed(names)}")
    return lines
