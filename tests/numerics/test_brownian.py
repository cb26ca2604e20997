"""The Brownian path: its law, its consistency across grids, and the strong order that it makes visible."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.random import SampleNoise
from scoresde.sampling.grids import Grid, KarrasGrid, UniformLogSNR
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import Mixture

F64 = torch.float64


def path(n: int, shape: tuple[int, ...] = (1,), seed: int = 0, first: int = 0, **options: object) -> BrownianPath:
    options = {"dtype": F64, **options}
    return BrownianPath(seed, torch.arange(first, first + n), shape, **options)  # type: ignore[arg-type]


def increments(source: BrownianPath, variances: list[float]) -> Tensor:
    return torch.stack([source(a, b) for a, b in pairwise(variances)])


@pytest.mark.parametrize(
    "variances",
    [
        torch.logspace(-12, 12, 13).tolist(),
        torch.logspace(-4, 5, 13).tolist(),
        torch.linspace(1.0, 1.01, 13).tolist(),
        torch.linspace(0.0, 1.0, 13).tolist(),
        torch.linspace(7.0, 0.1, 13).tolist(),
    ],
    ids=["24 decades", "9 decades", "near 1", "from 0", "backwards"],
)
def test_increments_are_white(variances: list[float]) -> None:
    rows, size = 400, 100
    z = increments(path(rows, (size,), seed=3), variances).reshape(12, -1)
    n = rows * size
    assert z.mean(1).abs().max() < 4 / math.sqrt(n)
    assert (z.square().mean(1) - 1).abs().max() < 4 * math.sqrt(2 / n)
    assert ((z**4).mean(1) - 3).abs().max() < 4 * math.sqrt(96 / n)
    for power in (1, 2):
        y = z**power
        corr = torch.corrcoef(y)[~torch.eye(12, dtype=torch.bool)]
        assert corr.abs().max() < 4.5 / math.sqrt(n)


def places(low: int, high: int, stride: int) -> list[float]:
    """Variances at which the tree has a place, so that they need no rounding."""
    return [2.0 ** (k / 2**12) for k in range(low, high + 1, stride)]


def test_increments_add_up() -> None:
    source = path(5, (3,))
    fine = places(-70_000, 70_000, 2500)
    coarse = fine[::7]
    z = increments(source, fine) * torch.tensor(fine, dtype=F64).diff().sqrt()[:, None, None]
    sums = z.reshape(8, 7, 5, 3).sum(1)
    wanted = increments(path(5, (3,)), coarse) * torch.tensor(coarse, dtype=F64).diff().sqrt()[:, None, None]
    torch.testing.assert_close(sums, wanted, rtol=1e-10, atol=1e-10)


def test_the_path_does_not_depend_on_the_queries() -> None:
    variances = torch.logspace(-5, 5, 40, dtype=F64).tolist()
    order = torch.randperm(39, generator=torch.Generator().manual_seed(0)).tolist()
    z = increments(path(4, (2,)), variances)
    source = path(4, (2,))
    for i in order:
        source()
        assert torch.equal(source(variances[i], variances[i + 1]), z[i])
        assert torch.equal(source(variances[i + 1], variances[i]), -z[i])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    variances = torch.logspace(-2, 3, 9, dtype=F64).tolist()
    together = increments(path(6, (2, 3), seed=8), variances)
    alone = torch.cat([increments(path(1, (2, 3), seed=8, first=i), variances) for i in range(6)], dim=1)
    assert torch.equal(together, alone)
    other = increments(path(6, (2, 3), seed=9), variances)
    assert int((together == other).sum()) == 0
    # Neither are samples, or seeds, each other's copies.
    flat = torch.cat([together, other], dim=1).permute(1, 0, 2, 3).flatten(1)
    assert torch.corrcoef(flat)[~torch.eye(12, dtype=torch.bool)].abs().max() < 4.5 / math.sqrt(flat.shape[1])


def test_float32_follows_float64() -> None:
    variances = torch.logspace(-6, 6, 50, dtype=F64).tolist()
    fine, single = (increments(path(50, (4,), dtype=d), variances) for d in (F64, torch.float32))
    assert single.dtype == torch.float32
    # A draw's own round-off is 3e-4 at worst, and 1e-7 in the usual case.
    assert (fine - single).abs().max() < 1e-3
    assert (fine - single).abs().median() < 1e-6


def test_without_an_interval_it_is_white_noise() -> None:
    source, white = path(3, (4,), seed=5), SampleNoise(5, torch.arange(3), (4,), F64)
    for _ in range(3):
        assert torch.equal(source(), white())
        source(0.5, 0.75)


def test_an_interval_finer_than_the_path_is_white() -> None:
    source = path(200, (50,))
    z = torch.stack([source(1.0, 1 + 1e-9), source(1 + 1e-9, 1 + 2e-9)])
    assert (z.square().mean((1, 2)) - 1).abs().max() < 4 * math.sqrt(2 / 1e4)
    assert abs(float((z[0] * z[1]).mean())) < 4 / math.sqrt(1e4)


def test_memory_does_not_grow() -> None:
    source = path(1)
    for a, b in zip(places(0, 2000, 1), places(1, 2001, 1), strict=True):
        source(a, b)
        assert len(source._descent) <= 24
        assert len(source._middles) <= 23


def test_errors() -> None:
    source = path(1)
    for bad in (-1.0, math.nan, math.inf, 1e20):
        with pytest.raises(ValueError, match="expected between 0 and 2\\^64"):
            source(1.0, bad)
    with pytest.raises(ValueError, match="give both ends, or none"):
        source(1.0)


class Exponential(Solver):
    """y = x/(σ s) obeys dy = D dv + dM in v = 1/s², s = σ/α; here with D frozen over a step (SDE-DPM-Solver++ 1M)."""

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde = model.sde
        clock = (2 * sde.log_snr(times)).exp().tolist()
        scale = (sde.sigma(times) * (-sde.log_snr(times)).exp()).tolist()
        y = x / scale[0]
        for i in range(len(times) - 1):
            dv = clock[i + 1] - clock[i]
            data = model.denoise(scale[i] * y, times[i])
            y = y + dv * data + math.sqrt(dv) * noise(clock[i], clock[i + 1])
            yield scale[i + 1] * y


@pytest.mark.slow
@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
def test_strong_order_one(planar: Mixture, sde: SDE) -> None:
    """Additive noise, so Euler's strong order is 1; with white noise there is no convergence at all."""
    model, n = planar.model(sde), 100
    x = model.sample(n, sde.t_max, torch.Generator().manual_seed(0))

    def ends(grid: Grid, noise: Noise) -> Tensor:
        *_, state = Exponential().solve(model, x, grid(sde), noise)
        return state

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().mean().sqrt())

    found = [ends(UniformLogSNR(steps), path(n, (2,))) for steps in (64, 128, 256, 512, 1024)]
    changes = [distance(a, b) for a, b in pairwise(found)]
    assert math.log2(changes[0] / changes[3]) / 3 == pytest.approx(1, abs=0.15), changes
    assert changes[3] < 0.02
    assert distance(ends(UniformLogSNR(64), SampleNoise(1, torch.arange(n), (2,), F64)), found[0]) > 0.3
    # Another family of grids tends to the same trajectories.
    assert distance(ends(KarrasGrid(512), path(n, (2,))), found[4]) < 0.04
