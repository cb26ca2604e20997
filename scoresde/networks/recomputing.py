"""Parts of a network whose intermediate results are not kept for the backward pass but computed again."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

__all__ = ["called", "recomputed", "recomputes"]


def called(part: Callable[..., Any], *args: Any, draws: bool = False) -> Any:
    """The result of a part, with all that its backward pass needs kept."""
    return part(*args)


def recomputed(part: Callable[..., Any], *args: Any, draws: bool = False) -> Any:
    """The result of a part of which only the inputs are kept; computing it again ends before its last operation.

    Args:
        part: Part of a network.
        args: Its inputs.
        draws: Whether it draws random numbers, which are then the same again.
    """
    return checkpoint(part, *args, use_reentrant=False, preserve_rng_state=draws)


def recomputes(module: torch.nn.Module) -> bool:
    """Whether there is a backward pass to save memory for, and no transform of `torch.func`, which has no hooks."""
    return module.training and torch.is_grad_enabled() and torch._C._functorch.peek_interpreter_stack() is None
