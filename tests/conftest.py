"""Fixtures that the tests of SDEs, preconditionings and score models share."""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from scoresde.sde import SDE
from tests import problems
from tests.problems import SDES, Mixture, Once

torch.set_num_threads(1)  # the suite runs on two workers

# What starts the suite may have signals ignored, as nohup and the background of a shell have, and the command leaves
# ignored ones ignored; tests of signals, and the processes that they start, want those of a terminal.
for _signal, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        with suppress(ValueError):  # not in the main thread
            signal.signal(_signal, _handler)


@pytest.fixture(params=list(SDES.values()), ids=list(SDES))
def sde(request: pytest.FixtureRequest) -> SDE:
    return request.param


@pytest.fixture(params=list(SDES.values()), ids=[f"as_{name}" for name in SDES])
def other_sde(request: pytest.FixtureRequest) -> SDE:
    return request.param


@pytest.fixture(params=["isotropic", "diagonal", "full", "singular"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[(2,), (1, 2, 2)], ids=["2", "1x2x2"])
def mixture(kind: str, request: pytest.FixtureRequest) -> Mixture:
    return Mixture(kind, request.param)


@pytest.fixture
def planar() -> Mixture:
    """A mixture with full covariances in the plane."""
    return Mixture("full", (2,))


@pytest.fixture
def points() -> Mixture:
    """Three weighted points in the plane."""
    return Mixture("point", (2,))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once for all workers of the session: `once(name, make)` calls `make(folder)` unless that is done.

    What it returns is for reading; a test that writes takes a copy.
    """
    root = tmp_path_factory.getbasetemp()
    shared = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared"
    shared.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("ACCELERATE_USE_CPU", "true")
                    make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A state folder of the tests' own, in which the key of what is allowed for runs is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


_LEVELS = {logger: logger.level for logger in (logging.getLogger(), logging.getLogger("scoresde"))}


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Logging as it was: a command in this process sets it up for the rest of the process.

    A command may have run before this fixture, in one of the session; so levels are those of the start.
    """
    handlers = {logger: list(logger.handlers) for logger in _LEVELS}
    for logger, level in _LEVELS.items():
        logger.setLevel(level)
    yield
    for logger, level in _LEVELS.items():
        logger.setLevel(level)
        logger.handlers[:] = handlers[logger]


@pytest.fixture
def generator() -> torch.Generator:
    return problems.generator()
