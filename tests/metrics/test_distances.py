"""Pairwise distances in blocks."""

from itertools import combinations

import pytest
import torch

from scoresde.metrics import distances
from scoresde.metrics.distances import largest_distance
from tests.problems import generator


@pytest.mark.parametrize("block", [7, 64, 2**20])
def test_largest_distance_whatever_the_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK", block)
    x = torch.randn(40, 5, generator=generator()) + 1000
    wanted = max(float((a - b).norm()) for a, b in combinations(x.double(), 2))
    assert largest_distance(x) == pytest.approx(wanted, rel=1e-6)
    assert largest_distance(x, samples=40) == largest_distance(x)


def test_the_largest_distance_from_some_rows_is_a_bound() -> None:
    x = torch.randn(500, 3, generator=generator())
    whole = largest_distance(x)
    found = [largest_distance(x, samples=5, seed=seed) for seed in range(20)]
    assert max(found) <= whole
    assert min(found) > 0.8 * whole
    assert max(found) == pytest.approx(whole)  # most searches end at the farthest pair or near it
    assert largest_distance(x, samples=5, seed=3) == found[3]


def test_two_rows_and_equal_rows() -> None:
    assert largest_distance(torch.tensor([[0.0], [2.0]])) == 2
    assert largest_distance(torch.ones(3, 2)) == 0
    assert largest_distance(torch.ones(9, 2), samples=2) == 0
