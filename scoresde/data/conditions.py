"""Conditions of samples beside their class: a vector, an image, or a sequence of tokens; checked, and their scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import as_tensor
from scoresde.data.transforms import as_lists, moments

__all__ = ["CONDITIONS", "ConditionInfo", "checked_conditions", "condition_infos", "of_rows", "scales_of", "vector_of"]

CONDITIONS = ("vector", "image", "tokens", "mask")
"""Names of the conditions that data may have beside labels, as networks take them."""

_AXES = {"vector": "(N, k)", "image": "(N, C, ...)", "tokens": "(N, L, d)", "mask": "(N, L)"}


@dataclass(frozen=True)
class ConditionInfo:
    """The shape and the scale of a condition, as it was when a model was trained.

    Args:
        shape: Shape of the condition of one sample.
        mean: Means over the training data in the condition's units: of each value of a vector, of each channel of an
            image; None for tokens and masks, which networks take as they are.
        std: Standard deviations of the same; 1 where all values are equal.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def to_plain(self) -> dict[str, Any]:
        """The facts as values that JSON has."""
        scale = {} if self.mean is None or self.std is None else {"mean": list(self.mean), "std": list(self.std)}
        return {"shape": list(self.shape), **scale}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ConditionInfo":
        """The inverse of `to_plain`.

        Raises:
            ValueError: A key that is missing, or a value of another kind.
        """
        shape, mean, std = (as_lists(plain.get(key)) for key in ("shape", "mean", "std"))
        right = isinstance(shape, list) and bool(shape) and all(type(n) is int and n > 0 for n in shape)
        scales = [values for values in (mean, std) if values is not None]
        right = right and len(scales) in (0, 2) and all(_numbers(values, shape[0]) for values in scales)
        if not right:
            raise ValueError(f"{dict(plain)!r} describes no condition")
        return cls(tuple(shape), *(None if values is None else tuple(map(float, values)) for values in (mean, std)))


def _numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(v, int | float) for v in values)


def condition_infos(conditions: Mapping[str, Tensor]) -> dict[str, ConditionInfo]:
    """The shapes and scales of conditions of training data, `(N, ...)` each, by name."""
    found = {}
    for name, values in conditions.items():
        shape = tuple(values.shape[1:])
        if name not in ("vector", "image") or len(values) < 2:
            found[name] = ConditionInfo(shape)
            continue
        mean, std = (scale.flatten() for scale in moments(values, keep=1))
        std = torch.where(std > 0, std, torch.ones_like(std))
        found[name] = ConditionInfo(shape, tuple(mean.tolist()), tuple(std.tolist()))
    return found


def scales_of(infos: Mapping[str, ConditionInfo]) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Means and standard deviations of the conditions that have them, by name."""
    return {name: (c.mean, c.std) for name, c in infos.items() if c.mean is not None and c.std is not None}


def checked_conditions(
    given: Mapping[str, Any] | None, count: int, where: str, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Tensor]:
    """Conditions of `count` samples as tensors `(count, ...)` of the dtypes that networks take.

    Floating point stays as it is, integers of vectors and tokens become float64, images of 256 levels stay uint8, and
    masks of 0 and 1 become boolean.

    Args:
        given: The conditions by name, arrays or tensors; see `CONDITIONS`.
        count: Number of samples.
        where: What they belong to, for messages.
        shapes: Shapes that the conditions of a sample must have, by name; None for any.

    Raises:
        ValueError: Another name, shape, dtype or number of rows, values that are not finite, or a mask without tokens.
    """
    made: dict[str, Tensor] = {}
    for name, values in (given or {}).items():
        if name not in CONDITIONS:
            labels = ": labels are given beside conditions" if name == "labels" else ""
            raise ValueError(f"{where} have a condition {name!r}, expected {', '.join(CONDITIONS)}{labels}")
        made[name] = _checked(name, as_tensor(name, values), count, f"{name} of {where}")
    if "mask" in made and ("tokens" not in made or made["tokens"].shape[:2] != made["mask"].shape):
        expected = "no tokens" if "tokens" not in made else f"tokens of shape {tuple(made['tokens'].shape)}"
        raise ValueError(f"mask of {where} has shape {tuple(made['mask'].shape)}, and there are {expected}")
    if shapes is not None:
        for name in (*made, *shapes):
            has, wanted = tuple(made[name].shape[1:]) if name in made else "no", shapes.get(name, "no")
            if has != wanted:
                raise ValueError(f"{where} have {has} {name} for a sample, expected {wanted}")
    return made


def _checked(name: str, values: Tensor, count: int, where: str) -> Tensor:
    expected = _AXES[name]
    least = {"vector": 2, "image": 3, "tokens": 3, "mask": 2}[name]
    if values.ndim < least or (name != "image" and values.ndim > least) or not values.numel():
        hint = "; v[:, None] makes a vector of each number" if name == "vector" and values.ndim == 1 else ""
        raise ValueError(f"{where} has shape {tuple(values.shape)}, expected {expected}{hint}")
    if len(values) != count:
        raise ValueError(f"{where} has {len(values)} rows, expected one for each of the {count} samples")
    dtype = values.dtype
    if name == "mask":
        if dtype != torch.bool and (dtype.is_complex or not bool(((values == 0) | (values == 1)).all())):
            raise ValueError(f"{where} has dtype {dtype}, expected booleans, True for the tokens that count")
        return values.bool()
    if dtype.is_complex or dtype == torch.bool or (name == "image" and not _is_pixels(dtype)):
        kinds = "floating point, or uint8 for pixels" if name == "image" else "numbers"
        raise ValueError(f"{where} has dtype {dtype}, expected {kinds}")
    if values.is_floating_point():
        bad = int((~values.isfinite()).sum())
        if bad:
            raise ValueError(f"{where} must be finite, {bad} of {values.numel()} values are NaN or infinite")
        return values
    return values if name == "image" else values.double()


def _is_pixels(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype == torch.uint8


def of_rows(conditions: Mapping[str, Tensor] | None, rows: Tensor) -> dict[str, Tensor] | None:
    """The conditions of some samples; None for none."""
    return None if conditions is None else {name: values[rows] for name, values in conditions.items()}


def vector_of(columns: Mapping[str, Sequence[Any]], where: str) -> Tensor:
    """Columns of numbers as the vectors of rows, `(N, k)` float64.

    Args:
        columns: The N values of each of k columns, by name.
        where: What they are columns of, for messages.

    Raises:
        ValueError: A value that is no number.
    """
    for name, values in columns.items():
        wrong = [i for i, value in enumerate(values) if not isinstance(value, int | float)]
        if wrong:
            row, found = wrong[0] + 1, str(values[wrong[0]])[:40]
            raise ValueError(f"column {name!r} of {where} holds {found!r} in row {row}, expected numbers")
    return torch.tensor(list(columns.values()), dtype=torch.float64).T.contiguous()
