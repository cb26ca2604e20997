"""Steps on request with their time, and the peak of their memory, for the processes of `training.py`."""

import gc
import json
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch

__all__ = ["most_of_tensors", "serve"]


def serve(make: Callable[[], tuple[torch.nn.Module, Callable[[], object]]], device: str) -> None:
    """Make a network and its step, then a step for each line of the standard input; whatever is needed is imported.

    The first answer has the number of parameters; each further one the processor time and the seconds of a step, and
    the most memory so far, in bytes, above what the process had before there was a network. To the line "tensors" the
    answer is the most bytes that tensors have in a step.
    """
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins at what is held now
    before = _memory(device)
    model, step = make()
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    for line in sys.stdin:
        if line.strip() == "tensors":
            print(json.dumps({"tensors": most_of_tensors(step, device)}), flush=True)
            continue
        _wait(device)
        began, seconds = time.process_time(), time.perf_counter()
        step()
        _wait(device)
        spent = time.process_time() - began
        answer = {"processor": spent, "seconds": time.perf_counter() - seconds, "memory": _memory(device) - before}
        print(json.dumps(answer), flush=True)


def most_of_tensors(step: Callable[[], object], device: str) -> int:
    """The most bytes that tensors have during a step, as the allocator counts them."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    gc.collect()
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if _is_plain(t)}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    most: int = sum(held.values()) + max(accumulate((change for _, change in changes), initial=0))
    return most


def _is_plain(candidate: object) -> bool:
    return issubclass(type(candidate), torch.Tensor) and candidate.layout == torch.strided  # type: ignore[attr-defined]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _memory(device: str) -> int:
    """The most bytes that the process has held: on the device, or resident on Linux."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")))
