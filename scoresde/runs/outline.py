"""Networks without their memory: parameters are counted, and compared with a file, before anything is allocated.

A configuration can ask for more memory than there is, or for more layers than can be made in a day. On the meta device
tensors have shapes and no values, so a network of any size is made at once; and it is given up as soon as it has more
parameters than allowed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from scoresde.storage.limits import check_memory

__all__ = ["differences", "filled", "outline"]

_MAX_TENSORS = 20_000  # tensors of parameters
# Bytes of training in float32 for each parameter: itself, its gradient, its average and two moments.
_BYTES_PER_PARAMETER = 5 * 4


def outline(make: Callable[[], nn.Module], most: int | None = None, file: Any = "") -> nn.Module | None:
    """The network on the meta device; None for one of a user's own that cannot be made there.

    Args:
        make: Makes the network.
        most: Number of parameters that it may have, no more than the elements of `file`; if not given, as many as can
            be trained within the limit on memory.
        file: File of the elements, for the message.

    Raises:
        ValueError: A network with more parameters than that.
    """

    def check(elements: int, tensors: int) -> None:
        if most is not None and elements > most:
            raise _TooLarge(f"the network has more parameters than the {most:,} elements of {file}")
        if tensors > _MAX_TENSORS:
            raise _TooLarge(
                f"the network has more than {_MAX_TENSORS:,} tensors of parameters, the limit: make it smaller"
            )
        if most is None:
            try:
                check_memory(_BYTES_PER_PARAMETER * elements, f"training a network of at least {elements:,} parameters")
            except ValueError as error:
                raise _TooLarge(str(error)) from error

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _counting(check):
            return make()
    except Exception as error:
        known: BaseException | None = error
        while known is not None and not isinstance(known, _TooLarge):
            known = known.__cause__
        if known is not None:
            raise ValueError(str(known)) from error
        return None  # made for real it raises the same, or it does not


class _TooLarge(ValueError):
    """A network that is given up."""


@contextmanager
def _counting(check: Callable[[int, int], None]) -> Iterator[None]:
    elements = tensors = 0

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal elements, tensors
        if value is not None:
            elements, tensors = elements + value.numel(), tensors + 1
            check(elements, tensors)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def differences(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The differences of the state of a network and tensors of these shapes, in words.

    Args:
        network: On any device.
        shapes: By the names of the network's state.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    missing = [f"{name} is missing" for name in wanted if name not in shapes]
    other = [f"{name} is not of this network" for name in shapes if name not in wanted]
    return missing + other + [
        f"{name} has shape {shapes[name]} in the file, {shape} by the configuration"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]  # fmt: skip


def filled(network: nn.Module | None, make: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> nn.Module:
    """The network with its state; it is made anew unless all of it is known to be in the state.

    Args:
        network: An `outline`, or None.
        make: Makes the network.
        state: Its state, of which copies are used.
    """
    ours = ("scoresde.", "torch.nn.")
    if network is None or not all(type(module).__module__.startswith(ours) for module in network.modules()):
        # A network of the user's own may keep further tensors.
        network = make()
        network.load_state_dict(state)
        return network
    dtypes = {name: value.dtype for name, value in network.state_dict().items()}
    network.load_state_dict({name: value.to(dtypes[name], copy=True) for name, value in state.items()}, assign=True)
    return network
