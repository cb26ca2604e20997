"""Reading ahead: threads that read the samples of the next steps while one is made.

What a step gets is a function of the step alone, so the number of threads changes when samples are read and nothing
else. Threads and not processes: reading files, unpacking and decoding release the interpreter's lock, and a process of
its own would cost the memory of another interpreter with torch.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from scoresde.data.rows import Rows

__all__ = ["Ahead"]


class Ahead:
    """The samples of steps, of which those of the next ones are read already.

    Args:
        rows: The samples.
        chosen: The indices `(B,)` of the samples of a step.
        steps: Number of steps; none after the last is read.
        workers: Number of threads, each of which reads one step at a time; 0 reads each step when it is asked for.
        pinned: Keep what was read in memory from which an accelerator copies without waiting.
    """

    def __init__(
        self, rows: Rows, chosen: Callable[[int], Tensor], steps: int, workers: int, pinned: bool = False
    ) -> None:
        self.rows, self.chosen, self.steps, self.workers, self.pinned = rows, chosen, steps, workers, pinned
        self._threads: ThreadPoolExecutor | None = None
        self._pending: OrderedDict[int, Future[Tensor]] = OrderedDict()

    def __call__(self, step: int) -> Tensor:
        """The samples `(B, *shape)` of a step.

        Raises:
            UnreadableData: They cannot be read.
        """
        if self.workers == 0:
            return self._read(step)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="scoresde-read")
        for other in [known for known in self._pending if not step <= known <= step + self.workers]:
            self._pending.pop(other).cancel()  # after a jump, as to a checkpoint
        for next_one in range(step, min(step + self.workers, self.steps - 1) + 1):
            if next_one not in self._pending:
                self._pending[next_one] = self._threads.submit(self._read, next_one)
        if step not in self._pending:  # beyond the last
            return self._read(step)
        return self._pending.pop(step).result()

    def _read(self, step: int) -> Tensor:
        values = self.rows.read(self.chosen(step).numpy())
        return values.pin_memory() if self.pinned and torch.accelerator.is_available() else values

    def close(self) -> None:
        """Stop reading, and wait for what is being read; a later call starts again."""
        threads, self._threads = self._threads, None
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
