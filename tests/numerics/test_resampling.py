"""Systematic resampling against its two promises: rounding up or down, and no bias."""

import torch

from scoresde.numerics.resampling import effective_share, systematic
from tests.problems import F64, generator


def test_particles_are_taken_as_often_as_their_weights_say() -> None:
    weights = torch.rand(3, 7, dtype=F64, generator=generator()) ** 3
    weights[:, 2] = 0.0
    weights[1, 6] = 0.0
    expected = 20 * weights / weights.sum(1, keepdim=True)
    starts = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    chosen = systematic(weights.expand(4000, 3, 7), starts[:, None].expand(-1, 3), 20)
    counts = torch.nn.functional.one_hot(chosen, 7).sum(2).double()
    assert bool(((counts - expected).abs() < 1).all())
    torch.testing.assert_close(counts.mean(0), expected, rtol=0, atol=1e-3)
    assert bool((chosen.diff(dim=2) >= 0).all())
    # At the ends, where round-off might take a particle of no weight.
    ends = torch.tensor([0.0, 1 - 2.0**-32], dtype=F64)[:, None].expand(-1, 3)
    taken = systematic(weights.expand(2, 3, 7), ends, 20)
    assert bool((weights.expand(2, 3, 7).gather(2, taken) > 0).all())


def test_equal_weights_leave_particles_where_they_are() -> None:
    weights = torch.full((2, 50), 0.3, dtype=F64)
    starts = torch.rand(2, dtype=F64, generator=generator(1))
    assert torch.equal(systematic(weights, starts, 50), torch.arange(50).expand(2, -1))


def test_the_effective_share_is_that_of_the_weights_that_count() -> None:
    logs = torch.tensor([[0.0, 0.0, 0.0, 0.0], [5.0, 5.0, -torch.inf, -torch.inf], [900.0, 0.0, 0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(effective_share(logs), torch.tensor([1.0, 0.5, 0.25], dtype=F64))
