"""Samples and conditions as a likelihood takes them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.numerics.values import one_of
from scoresde.score import Conditions, ScoreModel

__all__ = ["check_batch", "check_score", "state_dtype"]


def check_batch(
    model: ScoreModel, x: Tensor, cond: Mapping[str, Any], prior: str = "matched", density: bool = True
) -> tuple[Tensor, Conditions]:
    """Samples on the model's device, and their conditions.

    Args:
        model: The score model.
        x: Samples `(B, ...)`.
        cond: Conditions by name.
        prior: The density of the codes, `"matched"` or `"plain"`.
        density: Whether a density is asked for, which a guided model does not have.

    Raises:
        ValueError: A model without a density, samples that are not a batch of finite floating-point numbers, conditions
            of another length, or an unknown prior.
    """
    one_of("prior", prior, ("matched", "plain"))
    if density:
        check_score(model)
    if not x.is_floating_point():
        raise ValueError(
            f"x has dtype {x.dtype}, expected floating point in model space: bits_per_dim takes pixels, and "
            "model.info.transform.encode(pixels) their place there"
        )
    if x.ndim < 2 or x.shape[0] < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, ...) with at least one sample")
    broken = (~x.flatten(1).isfinite().all(1)).nonzero()[:, 0]
    if len(broken):
        raise ValueError(
            f"x has values that are not finite in {len(broken)} of {len(x)} samples, the first of them sample "
            f"{int(broken[0])}: remove those first"
        )
    x = model.on_device(x)
    return x, model.conditions(cond, len(x), x.device)


def check_score(model: ScoreModel) -> None:
    """Check that a model has a density.

    Raises:
        ValueError: A guided model.
    """
    if not model.is_score:
        raise ValueError(
            f"{type(model).__name__} has no likelihood: a guided field is the score of no density; take that of the "
            "model without guidance, or scoresde.guidance.FlowDensity(model) for the density of its flow's samples (a "
            "class whose field is a score says is_score = True)"
        )


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype of codes and data: that of x, but float32 at least, since half precision is too coarse for them."""
    return torch.promote_types(x.dtype, torch.float32)
