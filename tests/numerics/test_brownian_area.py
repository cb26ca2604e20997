"""The Brownian path with areas: the law of increments and areas, and that all answers are of one path."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.brownian_area import AreaPath, Increment
from scoresde.numerics.random import SampleNoise

F64 = torch.float64


def path(n: int, shape: tuple[int, ...] = (1,), seed: int = 0, first: int = 0, dtype: torch.dtype = F64) -> AreaPath:
    return AreaPath(SampleNoise(seed, torch.arange(first, first + n), shape, dtype))


def increments(source: AreaPath, ends: list[float]) -> Increment:
    found = [source(a, b) for a, b in pairwise(ends)]
    return Increment(torch.stack([i.w for i in found]), torch.stack([i.area for i in found]))


@pytest.mark.parametrize(
    "ends",
    [[0.0, 1e-9, 1e-3, 1.0, 80.0], [0.2, 0.21, 0.23, 0.9, 1.0], torch.linspace(1.0, 1.004, 5).tolist()],
    ids=["decades", "uneven", "near 1"],
)
def test_increments_and_areas_have_their_variances_and_are_independent(ends: list[float]) -> None:
    rows, size = 400, 100
    w, area = increments(path(rows, (size,), seed=3), ends)
    h = torch.tensor(ends, dtype=F64).diff()[:, None, None]
    z = torch.cat([w / h.sqrt(), area / (h / 12).sqrt()]).reshape(8, -1)
    n = rows * size
    assert z.mean(1).abs().max() < 4 / math.sqrt(n)
    # Places round the ends of the shortest interval, 1e-3 long, by 3e-7.
    assert (z.square().mean(1) - 1).abs().max() < 4 * math.sqrt(2 / n) + 1e-3
    assert ((z**4).mean(1) - 3).abs().max() < 4 * math.sqrt(96 / n) + 6e-3
    for power in (1, 2):
        corr = torch.corrcoef(z**power)[~torch.eye(8, dtype=torch.bool)]
        assert corr.abs().max() < 4.5 / math.sqrt(n)


def test_areas_are_those_under_the_path() -> None:
    """The trapezoids of 256 increments have the integral up to the areas of the small ones."""
    source, pieces = path(20, (5,)), 256
    start, stop = 0.3, 1.7
    whole = source(start, stop)
    values = torch.linspace(start, stop, pieces + 1, dtype=F64).tolist()
    w = torch.stack([source(a, b).w for a, b in pairwise(values)]).cumsum(0)
    integral = (w.sum(0) - 0.5 * w[-1]) * (stop - start) / pieces
    torch.testing.assert_close(w[-1], whole.w, rtol=0, atol=1e-12)
    area = integral / (stop - start) - 0.5 * whole.w
    assert float(whole.area.std()) > 0.2
    assert (area - whole.area).abs().max() < 5 * math.sqrt((stop - start) / 12) / pieces


def places(low: int, high: int, stride: int) -> list[float]:
    """Values at which the tree has a place, so that they need no rounding."""
    return [2.0 ** (k / 2**12) for k in range(low, high + 1, stride)]


def test_neighbours_join_to_the_whole() -> None:
    source, ends = path(5, (3,)), places(-40_000, 40_000, 4000)
    whole = source(ends[0], ends[-1])
    total, integral = torch.zeros_like(whole.w), torch.zeros_like(whole.w)
    for a, b in pairwise(ends):
        part = source(a, b)
        integral += (b - a) * (total + 0.5 * part.w + part.area)
        total += part.w
    h = ends[-1] - ends[0]
    torch.testing.assert_close(total, whole.w, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(integral / h - 0.5 * total, whole.area, rtol=1e-10, atol=1e-10)


def test_the_path_does_not_depend_on_the_queries() -> None:
    ends = torch.logspace(-5, 2, 150, dtype=F64).tolist()
    order = torch.randperm(149, generator=torch.Generator().manual_seed(0)).tolist()
    wanted, source = increments(path(4, (2,)), ends), path(4, (2,))
    for i in order:
        found = source(ends[i], ends[i + 1])
        assert torch.equal(found.w, wanted.w[i])
        assert torch.equal(found.area, wanted.area[i])
        assert len(source._draws) <= 96


def test_a_sample_does_not_depend_on_its_batch() -> None:
    ends = torch.logspace(-2, 2, 9, dtype=F64).tolist()

    def both(source: AreaPath) -> Tensor:
        return torch.stack(increments(source, ends))

    together = both(path(6, (2, 3), seed=8))
    alone = torch.cat([both(path(1, (2, 3), seed=8, first=i)) for i in range(6)], dim=2)
    assert torch.equal(together, alone)
    assert int((together == both(path(6, (2, 3), seed=9))).sum()) == 0


def test_float32_follows_float64() -> None:
    ends = torch.logspace(-6, 2, 50, dtype=F64).tolist()
    fine, single = (increments(path(50, (4,), dtype=d), ends) for d in (F64, torch.float32))
    scale = torch.tensor(ends, dtype=F64).diff().sqrt()[:, None, None]
    assert single.w.dtype == single.area.dtype == torch.float32
    for a, b in zip(fine, single, strict=True):
        # A draw's own round-off is 3e-4 at worst, and 1e-7 in the usual case; an increment is a sum of tens.
        assert ((a - b) / scale).abs().max() < 3e-3
        assert ((a - b) / scale).abs().median() < 1e-6


def test_it_is_independent_of_the_path_without_areas() -> None:
    n = 40_000
    w = path(400, (100,))(0.5, 1.0).w.flatten()
    for other in (
        BrownianPath(0, torch.arange(400), (100,), F64)(0.5, 1.0),
        SampleNoise(0, torch.arange(400), (100,))(),
    ):
        assert abs(float(torch.corrcoef(torch.stack([w, other.flatten().double()]))[0, 1])) < 4.5 / math.sqrt(n)


def test_an_interval_within_one_place_is_empty() -> None:
    found = path(3)(1.0, 1.0 + 1e-9)
    assert not bool(torch.stack(found).any())


def test_errors() -> None:
    for ends in ((-1.0, 1.0), (1.0, 0.5), (0.0, math.nan), (0.0, 1e20)):
        with pytest.raises(ValueError, match="expected 0 ≤ start ≤ stop ≤ 2\\^64"):
            path(1)(*ends)
