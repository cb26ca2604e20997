"""Checks of a checkpoint against the parts of a training, before any of it is used.

A fused optimiser hands its moments to a kernel that trusts their shapes and dtypes: nothing from a file may get there
unchecked.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.storage.tensors import check_tensor
from scoresde.training.sharded import is_part, placed

__all__ = ["check_counts", "load_optimizer", "without_state"]

# Settings of how an optimiser computes, not of what; another device may need others.
_MEANS = ("fused", "foreach", "capturable", "differentiable")


def check_counts(state: dict[str, Any]) -> None:
    """Reject a step, seconds or a number of skipped steps that no training can have.

    Args:
        state: Entries of a checkpoint.

    Raises:
        ValueError: Such a value; the message has it.
    """
    step = _count(state, "step")
    if _count(state, "skipped") > step:
        raise ValueError(f"skipped is {state['skipped']} at step {step}")
    seconds = state.get("seconds")
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds is {seconds!r}")


def _count(state: dict[str, Any], name: str) -> int:
    value = state.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}")
    return value


def without_state(optimizer: torch.optim.Optimizer) -> list[int]:
    """Indices of the parameters that no step has given a state, as those that a network does not use."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [index for index, p in enumerate(parameters) if p not in optimizer.state]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Any, stepped: bool, missing: Sequence[int] | None) -> None:
    """Load an optimiser's state after comparing it with its own after a step of zero gradients, made for this.

    Args:
        optimizer: Optimiser whose state is replaced; its parameters stay.
        saved: Its `state_dict` in the checkpoint.
        stepped: Whether it has made a step, and so has a state if it keeps one.
        missing: Its `without_state` when it was saved; None for an older checkpoint, which does not say.

    Raises:
        ValueError: Another number of parameters, other settings than the configuration's, or a state that is missing,
            of another shape or dtype, or not finite.
    """
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        raise ValueError("the optimiser's state is missing")
    own = _after_a_step(optimizer)
    groups = _check_groups(saved.get("param_groups"), own["param_groups"], type(optimizer))
    for index, values in saved["state"].items():
        if index not in range(len(own["parameters"])) or not isinstance(values, dict):
            raise ValueError(f"the optimiser's state is of an unknown parameter {index}")
        for name, wanted in own["state"].get(index, {}).items():
            _check_value(values.get(name), wanted, f"the optimiser's {name} of parameter {index}")
        for name in values.keys() - own["state"].get(index, {}).keys():
            _check_extra(values[name], own["parameters"][index], f"the optimiser's {name} of parameter {index}")
    lacking = own["state"].keys() - saved["state"].keys() if stepped else set()
    if missing is not None:
        lacking -= set(missing)
    elif len(lacking) < len(own["state"]):
        lacking = set()
    if lacking:
        raise ValueError(f"the optimiser's state of parameter {min(lacking)} is missing")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        index: {name: placed(value, parameters[index]) for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's `state_dict` after a step that moves nothing, and its parameters, all on the meta device."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    own = optimizer.state_dict()
    state = {index: {name: _meta(v) for name, v in values.items()} for index, values in own["state"].items()}
    return {"state": state, "param_groups": own["param_groups"], "parameters": list(map(_meta, parameters))}


def _meta(value: Any) -> Any:
    if is_part(value):  # of the whole, as in a file
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return value.detach().to("meta") if isinstance(value, Tensor) else value


def _check_groups(saved: Any, own: list[dict[str, Any]], kind: type) -> list[dict[str, Any]]:
    """Groups to load: those of the configuration, or the saved ones for an optimiser that may keep a state in them."""
    shapes = [len(group["params"]) for group in own]
    if not isinstance(saved, list) or [len(group.get("params", ())) for group in saved] != shapes:
        raise ValueError(f"the optimiser has other groups of parameters than {shapes}")
    torchs = kind.__module__.startswith(("torch.optim", "scoresde."))
    for one, other in zip(saved, own, strict=True):
        for name in one.keys() & other.keys() - {"params", "lr", *_MEANS}:
            a, b = _plain(one[name]), _plain(other[name])
            if torchs and a != b:
                raise ValueError(f"the optimiser's {name} is {a} in the checkpoint and {b} in the configuration")
            if isinstance(a, float) and not math.isfinite(a):
                raise ValueError(f"the optimiser's {name} is {a}")
    return own if torchs else saved


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_value(found: Any, wanted: Any, what: str) -> None:
    """Check a value against the one after the first step."""
    if isinstance(wanted, Tensor):
        if found is None:
            raise ValueError(f"{what} is missing")
        check_tensor(found, wanted, what)
    elif isinstance(wanted, int | float) and not (isinstance(found, int | float) and math.isfinite(found)):
        raise ValueError(f"{what} is {found!r}, expected a number")


def _check_extra(found: Any, parameter: Tensor, what: str) -> None:
    """Check a value that the first step did not make: of the parameter's own shape and dtype, or a number."""
    if isinstance(found, Tensor) and found.ndim:
        check_tensor(found, parameter, what)
    elif isinstance(found, Tensor | int | float) and not math.isfinite(float(found)):
        raise ValueError(f"{what} is {found!r}, expected a finite number")
