"""Fixtures that the tests of SDEs, preconditionings and score models share."""

import io
import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from scoresde import progress
from scoresde.cli.console import _NOISY
from scoresde.sde import SDE
from tests import problems
from tests.problems import SDES, Mixture, Once

torch.set_num_threads(1)  # the suite runs on two workers,
os.environ.setdefault("OMP_NUM_THREADS", "1")  # each of which starts processes that would take all cores

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


@contextmanager
def output_as_before() -> Iterator[None]:
    """What a command sets of logs, progress and warnings is afterwards as it was."""
    logs = {log: (log.level, list(log.handlers)) for log in map(logging.getLogger, ("", "scoresde", *_NOISY))}
    shown, text = {"bars": progress._bars, "prefix": progress._prefix}, warnings.formatwarning
    try:
        yield
    finally:
        for log, (level, handlers) in logs.items():
            log.setLevel(level)
            log.handlers[:] = handlers
        progress.show(**shown)
        warnings.formatwarning = text


@contextmanager
def process_as_before() -> Iterator[None]:
    """What a command sets for the rest of its process is afterwards as it was.

    Beside logs, progress and warnings, these are environment variables, torch's threads and types, and what the
    standard streams do with characters that they cannot encode.
    """
    environment = dict(os.environ)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    streams = {stream: stream.errors for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)}
    try:
        with output_as_before():
            yield
    finally:
        for name in {name for name, _ in os.environ.items() ^ environment.items()}:
            if name == "PYTEST_CURRENT_TEST":
                continue
            if name in environment:
                os.environ[name] = environment[name]
            else:
                del os.environ[name]
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        for stream, errors in streams.items():
            if not stream.closed and stream.errors != errors:
                stream.reconfigure(errors=errors)


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
                with process_as_before(), pytest.MonkeyPatch.context() as patch:
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


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    with process_as_before():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[Any]:
    """A fixture of a module may run a command, before that one of each test notes how things are."""
    if fixturedef.scope == "function":
        return (yield)
    with output_as_before():
        return (yield)


@pytest.fixture
def generator() -> torch.Generator:
    return problems.generator()
