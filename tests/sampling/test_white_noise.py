"""Which solvers draw white noise though a Brownian path was asked for, and that a sampler says so."""

import warnings

import pytest
import torch

from scoresde.numerics.brownian import BrownianPath
from scoresde.sampling import (
    DDPM,
    ERSDE,
    SEEDS,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    Churn,
    EDMHeun,
    KarrasGrid,
    Multistep,
    NCSNv2,
    Picard,
    PredictorCorrector,
    Restart,
    RestartInterval,
    Sampler,
    Solver,
    TorchSDE,
)
from scoresde.sde import EDMSDE
from tests.problems import F64, blobs


@pytest.mark.parametrize(
    "solver",
    [
        PredictorCorrector(Ancestral(), AnnealedLangevin()),
        PredictorCorrector(Ancestral()),
        EDMHeun(Churn(10.0)),
        Restart([RestartInterval(low=0.1, high=0.5, steps=3, repeats=2)]),
        Restart([RestartInterval(low=0.1, high=0.5, steps=3, repeats=2)], EDMHeun(Churn(10.0))),
        AdaptiveSDE(rtol=0.1),
        Multistep(2, tau=1.0),
        NCSNv2(),
        SEEDS(2),
        ERSDE(2),
        Picard(DDPM()),
        TorchSDE("srk"),
        TorchSDE("euler"),
    ],
    ids=repr,
)
def test_white_noise_under_a_brownian_path_is_told(solver: Solver) -> None:
    """The number of white draws grows with the number of steps, or stays: then more steps refine a trajectory."""
    model = blobs(EDMSDE())
    x = model.sample(2, 80.0, torch.Generator().manual_seed(0))
    counts = []
    for steps in (8, 16):
        path = BrownianPath(0, torch.arange(2), (3,), F64)
        for _ in solver.solve(model, x, KarrasGrid(steps)(model.sde), path):
            pass
        counts.append(path.white.draws)
    adaptive_sde = isinstance(solver, AdaptiveSDE)
    assert solver.draws_white == (counts[0] != counts[1] or adaptive_sde), counts
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        Sampler(solver, KarrasGrid(8), noise="brownian")(model, x_init=x)
        Sampler(solver, KarrasGrid(8))(model, x_init=x)
    told = [w for w in record if "draws white noise" in str(w.message)]
    assert len(told) == solver.draws_white
    assert all(w.filename == __file__ for w in told)
