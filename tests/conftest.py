"""Fixtures that the tests of SDEs, preconditionings and score models share."""

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from scoresde.sde import SDE
from tests import problems
from tests.problems import SDES, Mixture

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


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A state folder of the tests' own, in which the key of what is allowed for runs is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return problems.generator()
