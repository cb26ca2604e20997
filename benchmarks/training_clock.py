"""Steps on request with their time, and the peak of their memory, for the processes of `training.py`."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["serve"]


def serve(make: Callable[[], tuple[torch.nn.Module, Callable[[], object]]], device: str) -> None:
    """Make a network and its step, then a step for each line of the standard input; whatever is needed is imported.

    The first answer has the number of parameters; each further one the processor time and the seconds of a step, and
    the most memory so far, in bytes, above what the process had before there was a network.
    """
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins at what is held now
    before = _memory(device)
    model, step = make()
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    for _ in sys.stdin:
        _wait(device)
        began, seconds = time.process_time(), time.perf_counter()
        step()
        _wait(device)
        spent = time.process_time() - began
        answer = {"processor": spent, "seconds": time.perf_counter() - seconds, "memory": _memory(device) - before}
        print(json.dumps(answer), flush=True)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _memory(device: str) -> int:
    """The most bytes that the process has held: on the device, or resident on Linux."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")))
