"""Solvers are tested on smooth SDEs; `sde/test_sde.py` has what solvers make of a table of β."""

import pytest

from scoresde.sde import SDE
from tests.problems import SMOOTH


@pytest.fixture(params=list(SMOOTH.values()), ids=list(SMOOTH))
def sde(request: pytest.FixtureRequest) -> SDE:
    return request.param
