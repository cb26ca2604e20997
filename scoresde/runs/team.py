"""The processes of a command: the first runs it, and all of them compute what it hands out.

A command is written as for one process. Where its work falls into items that depend on nothing but themselves, such as
blocks of samples or cells of a table, it asks `each` for a function of all of them. Alone, that is `map`. Under
torchrun, accelerate or MPI the first process sends the function to the others, which wait for it in `serve`; item i is
computed by process i mod P, and the results come back in the order of the items. So there is one reader of files, one
writer and one voice, and a result depends on its item alone, not on the number of processes. Items are sent a few ahead
of when they are needed, and so there may be more of them than memory holds.
"""

import io
import logging
import os
import pickle
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor

__all__ = ["each", "leading", "serve"]

T = TypeVar("T")
R = TypeVar("R")

# How long a process waits for another that is at work. One that is gone is noticed at once.
_PATIENCE = timedelta(days=30)
_AHEAD = 3  # items that a process may have before it, and results that it may have ready
_ENDED = "scoresde-ended"  # the first process has ended by itself, and has said why


def each(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of a function for all items, in their order, by all processes of the command.

    Args:
        function: A function whose result depends on its item alone. Several processes get it by pickle, with what it
            holds: a function of a module or an object, not a closure.
        items: The items, which are pickled, too.

    Raises:
        ValueError: A function that cannot be sent.
        Exception: Whatever the function raises, for the first item of which it does.
    """
    team = _Team.current
    if team is None or team.busy:
        return map(function, items)
    return team.each(function, items)


@contextmanager
def leading(state: PartialState) -> Iterator[None]:
    """Have the other processes compute what `each` is asked for within the context; they are in `serve`."""
    if state.num_processes == 1:
        yield
        return
    team = _Team(state)
    _Team.current = team
    try:
        yield
    except Exception:
        team.end(1)
        raise
    except BaseException:
        # The others may be at work: they notice that this process is gone.
        _note(_ENDED)
        raise
    else:
        team.end(0)
    finally:
        _Team.current = None


def serve(state: PartialState) -> int:
    """Compute what the first process hands out until it ends; the status that it ends with, 0 or 1.

    The program ends at once if the first has been interrupted, which says so itself.

    Raises:
        RuntimeError: The first process is gone without a word.
    """
    logging.disable(logging.WARNING)  # the first process has the same to say
    try:
        return _Team(state).serve()
    except RuntimeError:
        if _noted(_ENDED):
            os._exit(1)  # what is left of the communication would wait for the first
        raise
    finally:
        logging.disable(logging.NOTSET)


def _note(key: str) -> None:
    """Put a key into the store that all processes see; a store that is gone has no readers."""
    with suppress(RuntimeError, ValueError):
        torch.distributed.distributed_c10d._get_default_store().set(key, "1")


def _noted(key: str) -> bool:
    """Whether the key is in the store; false where the first process kept it and is gone."""
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        return bool(store.check([key]))
    except (RuntimeError, ValueError):
        return False


@dataclass
class _Task:
    """What the first process sends."""

    function: Callable[[Any], Any]
    threads: int
    gradients: bool


@dataclass
class _Answer:
    """What a process sends of an item: its result, or an error, and the warnings on the way."""

    value: Any = None
    error: BaseException | None = None
    warnings: list[tuple[str, type[Warning]]] = field(default_factory=list)


class _Team:
    """The processes, as one of them sees them.

    Args:
        state: The processes and the device of this one.
    """

    current: "_Team | None" = None

    def __init__(self, state: PartialState) -> None:
        import torch.distributed as dist

        self.dist, self.device = dist, state.device
        self.rank, self.size = state.process_index, state.num_processes
        # Messages are bytes on the CPU, whatever the devices talk by, and may wait long for each other.
        self.group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self.busy = False

    # -- the first process ------------------------------------------------------------------------------

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """See the function `each`."""
        self._tell(_packed(_Task(function, torch.get_num_threads(), torch.is_grad_enabled())))
        self.busy = True
        handed = _Handed(self, items)
        try:
            while handed.ahead(_AHEAD * self.size):
                yield handed.result(function)
        except KeyboardInterrupt:
            raise  # the end of the program, which waits for nobody
        except BaseException:
            handed.drop()
            raise
        else:
            handed.drop()
        finally:
            self.busy = False

    def _tell(self, message: Tensor) -> None:
        """Send a message to all other processes."""
        self.dist.broadcast(torch.tensor(len(message)), 0, self.group)
        self.dist.broadcast(message, 0, self.group)

    def _send(self, message: Tensor, rank: int) -> "_Sent":
        """Send a message to one process, and do not wait until it is there."""
        parts = [torch.tensor(len(message)), *([message] if len(message) else [])]
        return _Sent([self.dist.isend(part, rank, self.group) for part in parts], parts)

    def _message(self, rank: int) -> Tensor:
        """Wait for a message of one process."""
        size = torch.zeros((), dtype=torch.int64)
        self.dist.recv(size, rank, self.group)
        content = torch.empty(int(size), dtype=torch.uint8)
        if len(content):
            self.dist.recv(content, rank, self.group)
        return content

    def _received(self, rank: int) -> Any:
        answer = self._answer(rank)
        for text, category in answer.warnings:
            warnings.warn(text, category, stacklevel=4)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _answer(self, rank: int) -> _Answer:
        answer: _Answer = _unpacked(self._message(rank), self.device)
        return answer

    def end(self, status: int) -> None:
        """Let the other processes end, with this status."""
        _note(_ENDED)
        with suppress(RuntimeError):  # one of them is gone, which is told elsewhere
            self.dist.broadcast(torch.tensor(-1 - status), 0, self.group)

    # -- the others -------------------------------------------------------------------------------------

    def serve(self) -> int:
        """See the function `serve`."""
        while True:
            size = torch.zeros((), dtype=torch.int64)
            self.dist.broadcast(size, 0, self.group)
            if int(size) < 0:
                return -1 - int(size)
            message = torch.empty(int(size), dtype=torch.uint8)
            self.dist.broadcast(message, 0, self.group)
            self._compute(message)

    def _compute(self, message: Tensor) -> None:
        """Send the answers of this process's items."""
        function: Callable[[Any], Any]
        gradients = True
        try:
            task: _Task = _unpacked(message, self.device)
        except Exception as problem:
            text = f"process {self.rank} cannot read its work: {type(problem).__name__}: {problem}"
            function = partial(_raise, ValueError(text))
        else:
            function, gradients = task.function, task.gradients
            torch.set_num_threads(task.threads)
        sent: deque[_Sent] = deque()
        while len(content := self._message(0)):
            with torch.set_grad_enabled(gradients):
                answer = _computed(function, content, self.device)
            sent.append(self._send(_packed(answer), 0))
            while len(sent) > _AHEAD:
                sent.popleft().wait()
        while sent:
            sent.popleft().wait()


@dataclass
class _Sent:
    """A message on its way, which keeps the memory that it is sent from."""

    handles: list[Any]
    parts: list[Tensor]

    def wait(self) -> None:
        for handle in self.handles:
            handle.wait()


class _Handed:
    """The items of a task: those that are with the processes that compute them, and those to come."""

    def __init__(self, team: _Team, items: Iterable[Any]) -> None:
        self.team, self.items, self.count = team, iter(items), 0
        self.waiting: deque[tuple[int, Any, _Sent | None]] = deque()

    def ahead(self, number: int) -> bool:
        """Hand out items until there are `number` without a result, or all; whether there are any."""
        while len(self.waiting) < number:
            try:
                item = next(self.items)
            except StopIteration:
                break
            rank = self.count % self.team.size
            self.waiting.append((rank, item, None) if rank == 0 else (rank, None, self.team._send(_packed(item), rank)))
            self.count += 1
        return bool(self.waiting)

    def result(self, function: Callable[[Any], Any]) -> Any:
        """The result of the first item that has none: computed, or waited for."""
        # The message stays until it is answered: one that is forgotten before it has left is lost.
        rank, item, message = self.waiting.popleft()
        result = self.team._received(rank) if rank else function(item)
        del message
        return result

    def drop(self) -> None:
        """End the task: wait for answers that are on the way, after an error, and let the processes know."""
        while self.waiting:
            rank, _, message = self.waiting.popleft()
            if rank:
                self.team._answer(rank)
            del message
        for sent in [self.team._send(torch.empty(0, dtype=torch.uint8), rank) for rank in range(1, self.team.size)]:
            sent.wait()


def _raise(error: Exception, item: Any) -> Any:
    raise error


def _computed(function: Callable[[Any], Any], content: Tensor, device: torch.device) -> _Answer:
    error, value = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(_unpacked(content, device))
        except Exception as problem:
            error = _portable(problem)
    return _Answer(value, error, [(str(each.message), each.category) for each in caught])


def _portable(error: Exception) -> Exception:
    """The error, or one of a plain class with its text if it cannot be sent."""
    try:
        same = pickle.loads(pickle.dumps(error))
        if str(same) == str(error):
            return error
    except Exception:
        pass
    kinds = (ArithmeticError, OSError, ValueError, TypeError, ImportError)
    kind = next((k for k in kinds if isinstance(error, k)), RuntimeError)
    return kind(str(error) if kind is not RuntimeError else f"{type(error).__name__}: {error}")


# -- messages ---------------------------------------------------------------------------------------------


def _packed(content: Any) -> Tensor:
    """A task, an item or an answer as bytes.

    Raises:
        ValueError: A part of it that cannot be pickled.
    """
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the work cannot be handed to other processes ({' '.join(str(error).split())[:160]}): start the command "
            "by itself, without a launcher"
        ) from error
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _unpacked(message: Tensor, device: torch.device) -> Any:
    """What `_packed` made; tensors of an accelerator come onto this process's device."""

    def placed(storage: Any, where: str) -> Any:
        return storage if where == "cpu" else storage.to(device)

    # Not a file: the sender is another process of this very command.
    return torch.load(io.BytesIO(message.numpy().tobytes()), map_location=placed, weights_only=False)
