"""Devices, processes and precision, which the environment must not decide behind the configuration.

Precision is the configuration's: `training.bf16` for the network in training, and float32 for everything else. So the
processes come from accelerate's `PartialState`, which has no precision, no gradient accumulation and no compiler of its
own, unlike its `Accelerator`, which takes all three from environment variables that a saved configuration or an option
of `accelerate launch` sets. What such a configuration may say is how the work is divided, which leaves the numbers as
they are to round-off: see `scoresde.training.sharded`.
"""

import atexit
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["check_device", "default_types", "own_precision", "processes"]

# If one of these is set when torch is loaded, oneDNN computes float32 layers in another type, and stays so.
ONEDNN = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def check_device(device: str) -> None:
    """Reject a device that is not there.

    Args:
        device: As torch names it: cpu, cuda, cuda:1, ...

    Raises:
        ValueError: Such a device; the message has those that there are.
    """
    asked = torch.device(device)
    if asked.type == "cpu":
        return
    backend = torch.backends.mps if asked.type == "mps" else getattr(torch, asked.type)
    if not backend.is_available():
        why = "is built without CUDA" if asked.type == "cuda" and torch.version.cuda is None else "finds none"
        raise ValueError(
            f"device is {device!r}, but this PyTorch ({torch.__version__}) {why}: leave device out, or =cpu"
        )
    count = 1 if asked.type == "mps" else backend.device_count()
    if (asked.index or 0) >= count:
        names = ", ".join(f"{asked.type}:{i}" for i in range(count))
        raise ValueError(
            f"device is {device!r}, but there is {names} alone"
            if count == 1
            else f"device is {device!r}, expected one of {names}"
        )


def processes(device: str | None = None) -> "PartialState":
    """The processes of this program and this one's device: a CPU where there is no CUDA, which may lack float64.

    `ACCELERATE_USE_CPU=true` asks for a CPU, as `accelerate launch --cpu` does. Several processes leave their group
    when the program ends: gloo's threads may outlive the interpreter else, and end it by SIGABRT with all its work
    done.

    Args:
        device: Another device for this process, if it is the only one.

    Raises:
        ValueError: A device for several processes, each of which has its own.
    """
    from accelerate import PartialState  # late: commands that need no processes do not wait for it

    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "t", "y")
    state = PartialState(cpu=asked or not torch.cuda.is_available())
    if state.num_processes > 1:
        atexit.register(state.destroy_process_group)
    if device is not None:
        if state.num_processes > 1:
            raise ValueError(f"device is {device!r}, but there are {state.num_processes} processes: leave it out")
        state.device = torch.device(device)
    return state


def own_precision() -> None:
    """Compute float32 products in float32, whatever environment variables say; for the process of a command.

    Raises:
        ValueError: The library oneDNN was loaded with a variable that has it compute float32 layers in another type.
    """
    for name in ONEDNN:
        mode = os.environ.get(name, "STRICT")
        if mode.upper() != "STRICT":
            raise ValueError(
                f"the environment variable {name} is {mode}: float32 layers would not be computed in float32; unset it"
            )
    # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE sets another.
    torch.set_float32_matmul_precision("highest")


@contextmanager
def default_types() -> Iterator[None]:
    """Make new tensors float32 on the CPU while the context lasts, whatever other code has set as torch's defaults."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def limit_threads(shape: tuple[int, ...]) -> None:
    """Use one CPU thread for samples of up to 256 elements, unless OMP_NUM_THREADS says otherwise.

    Their layers are too small to share: a second thread gains nothing, and where another program runs, threads that
    wait for each other make every layer several times slower.

    Args:
        shape: Shape of a sample.
    """
    if math.prod(shape) <= 256 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
