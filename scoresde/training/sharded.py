"""Training whose weights, gradients and averages are divided among processes (FSDP2), as Accelerate is configured.

`accelerate launch --config_file conf/accelerate/fsdp2.yaml` asks for it by environment variables. A process keeps a
part of every parameter, and gathers those of a block of the network for as long as the block computes. Checkpoints are
those of any other training: whole tensors, gathered one by one, so that they load on any number of processes, divided
or not.
"""

import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from scoresde.training.options import Training

__all__ = [
    "Sharded",
    "is_divided",
    "is_part",
    "parts_of_launcher",
    "placed",
    "spread",
    "wants_sharding",
    "whole",
    "whole_tensor",
]

_OTHERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "t", "y")


def parts_of_launcher(options: Training) -> int:
    """Number of parts that a process computes its samples of a batch in: that of the options or of Accelerate.

    The numbers of a batch do not depend on it, so that the launcher may say it, too.

    Raises:
        ValueError: Two different numbers, or one that is no positive integer.
    """
    text = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"gradient_accumulation_steps of accelerate is {text!r}, expected a positive integer")
    if int(text) == 1:
        return options.accumulate
    if options.accumulate not in (1, int(text)):
        raise ValueError(
            f"training.accumulate is {options.accumulate} and gradient_accumulation_steps of accelerate {text}: "
            "give one of them"
        )
    return int(text)


def wants_sharding(processes: PartialState) -> bool:
    """Whether Accelerate is configured to divide the weights, and there are several processes to do so.

    Raises:
        ValueError: A way of dividing the work that training does not know.
    """
    for name, what in _OTHERS.items():
        if _is_set(name):
            raise ValueError(
                f"accelerate is configured for {what}, which training does not use: take "
                "conf/accelerate/fsdp2.yaml, or multi_gpu.yaml"
            )
    if not _is_set("ACCELERATE_USE_FSDP") or processes.num_processes == 1:
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"fsdp_version of accelerate is {version}, expected 2: set it in fsdp_config")
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        raise ValueError("fsdp_offload_params of accelerate is true, which training does not do: set it to false")
    return True


class Sharded:
    """A network whose parameters are divided among the processes, in place.

    Args:
        network: The network, on the device of this process.
        processes: The processes.
        options: Options of training.

    Raises:
        ValueError: Options that do not go with it, or a version of torch without FSDP2.
    """

    def __init__(self, network: nn.Module, processes: PartialState, options: Training) -> None:
        try:
            from torch.distributed.fsdp import fully_shard
        except ImportError as error:
            raise ValueError(f"fsdp_version 2 needs torch 2.6 or newer, this is {torch.__version__}") from error
        from torch.distributed.device_mesh import init_device_mesh

        for name in ("compile", "channels_last"):
            if getattr(options, name):
                raise ValueError(f"training.{name} does not go with divided weights (FSDP): set training.{name}=false")
        # Its advice on in-place operations, of which a score model has none on the output of its network.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        # On no device: it has the weights again when training is done.
        self._plain = copy.deepcopy(network).to("meta")
        self._buffers = dict(network.named_buffers())
        self.network: Any = network
        device = processes.device
        mesh = init_device_mesh(device.type, (processes.num_processes,))
        again = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false"
        for block in _blocks(network):
            fully_shard(block, mesh=mesh, reshard_after_forward=again)
        fully_shard(network, mesh=mesh, reshard_after_forward=again)

    @contextmanager
    def unsynchronised(self) -> Iterator[None]:
        """Within, gradients stay with their process."""
        self.network.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.network.set_requires_gradient_sync(True)

    def gathered(self, parameters: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        """The network as it was before it was divided, with these parameters; all processes call it."""
        plain = self._plain.to_empty(device=device)
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                value = parameters[name]
                parameter.copy_(whole_tensor(value))
            for name, buffer in plain.named_buffers():
                buffer.copy_(self._buffers[name])
        return plain


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The modules that are gathered one after the other, those inside others first.

    They are those that Accelerate names by fsdp_transformer_layer_cls_to_wrap, or that have the least number of
    parameters of fsdp_min_num_params; else the network is one.

    Raises:
        ValueError: Names of no module of the network.
    """
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP")
    modules = [m for name, m in network.named_modules() if name and not isinstance(m, nn.ModuleList | nn.ModuleDict)]
    if policy == "TRANSFORMER_BASED_WRAP":
        names = {name.strip() for name in os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",") if name.strip()}
        chosen = [m for m in modules if type(m).__name__ in names]
        if not chosen:
            kinds = sorted({type(m).__name__ for m in modules if any(True for _ in m.children())})
            raise ValueError(
                f"fsdp_transformer_layer_cls_to_wrap of accelerate is {','.join(sorted(names)) or 'empty'}, and the "
                f"network has modules {', '.join(kinds)}: name some of these, or set fsdp_auto_wrap_policy: NO_WRAP"
            )
    elif policy == "SIZE_BASED_WRAP":
        least = int(os.environ.get("FSDP_MIN_NUM_PARAMS", "0") or 0)
        chosen = [m for m in modules if sum(p.numel() for p in m.parameters()) >= max(least, 1)]
    else:
        chosen = []
    return chosen[::-1]


def whole(value: Any, keep: bool = True) -> Any:
    """Nested containers with whole tensors on the CPU in place of divided ones; all processes call it.

    Args:
        value: Tensors and plain values in nested containers.
        keep: Whether this process has use for it; the others only take part.
    """
    if is_part(value):
        full = whole_tensor(value)
        return full.cpu() if keep else None
    if isinstance(value, dict):
        return {key: whole(each, keep) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(each, keep) for each in value)
    return value


def is_part(value: Any) -> bool:
    """Whether a value is a tensor of which each process has a part, a `DTensor`."""
    # By what it can do, as the import of that class takes a second, which no other training needs to wait for.
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def whole_tensor(value: Tensor) -> Tensor:
    """The tensor with the parts of all processes, which all call it; one that is not divided as it is."""
    full: Tensor = value.full_tensor() if is_part(value) else value  # type: ignore[attr-defined]
    return full


def is_divided(network: nn.Module) -> bool:
    """Whether the parameters of a network are divided among processes."""
    return any(map(is_part, network.parameters()))


def spread(values: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors divided as those of the same names are; others as they are."""
    return {name: placed(value, like.get(name)) for name, value in values.items()}


def placed(value: Any, like: Any) -> Any:
    """A whole tensor divided as another of its shape is; anything else as it is."""
    if not is_part(like) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    local = value.to(like.to_local().device)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)
