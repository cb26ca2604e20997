"""What the environment may decide behind a configuration: the precision of arithmetic, and how processes share work.

Precision is the configuration's: `training.bf16` for the network in training, and float32 for everything else. So the
processes are known by accelerate's `PartialState`, which has no precision, no gradient accumulation and no compiler of
its own, unlike its `Accelerator`, which takes all three from environment variables that a saved configuration or an
option of `accelerate launch` sets.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["default_types", "own_precision", "processes"]

# Where these are set when torch is loaded, oneDNN computes float32 layers in another type, and nothing stops it later.
ONEDNN = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def processes() -> "PartialState":
    """The processes of this program and this one's device: a CPU where there is no CUDA, which may lack float64.

    `ACCELERATE_USE_CPU=true` asks for a CPU, as `accelerate launch --cpu` does.
    """
    from accelerate import PartialState  # late: commands that draw a page do not wait for it

    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "t", "y")
    return PartialState(cpu=asked or not torch.cuda.is_available())


def own_precision() -> None:
    """Compute float32 products in float32, whatever environment variables say; for a process that is the command's.

    Raises:
        ValueError: oneDNN was loaded with a variable that has it compute float32 layers in another type.
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
    """Within, new tensors are float32 on the CPU, whatever other code has set as torch's defaults."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
