import pytest
import torch

from scoresde.data.order import batch_indices, epoch_order


def test_each_epoch_is_its_own_permutation() -> None:
    orders = [epoch_order(50, epoch, seed) for epoch in range(4) for seed in range(3)]
    for order in orders:
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(50))
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)  # no (seed, epoch) repeats another


def test_order_is_a_pure_function() -> None:
    first = epoch_order(20, 3, 1)
    expected = first.clone()
    first.zero_()  # a caller may write into what it got
    batch_indices(20, 4, 15, 1).zero_()
    assert torch.equal(epoch_order(20, 3, 1), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 11, 25, 64])
def test_batches_are_the_epochs_laid_end_to_end(batch_size: int) -> None:
    n, epochs = 10, 30
    steps = n * epochs // batch_size
    batches = [batch_indices(n, batch_size, step, seed=2) for step in range(steps)]
    assert all(batch.shape == (batch_size,) and batch.dtype == torch.int64 for batch in batches)
    stream = torch.cat([epoch_order(n, epoch, 2) for epoch in range(epochs)])
    assert torch.equal(torch.cat(batches), stream[: steps * batch_size])


def test_every_sample_comes_once_per_epoch_across_borders() -> None:
    stream = torch.cat([batch_indices(9, 4, step, seed=0) for step in range(9)])  # four epochs
    for epoch in stream.reshape(4, 9):
        assert epoch.sort().values.tolist() == list(range(9))


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    forwards = [batch_indices(13, 5, step, 7).tolist() for step in range(40)]
    backwards = [batch_indices(13, 5, step, 7).tolist() for step in reversed(range(40))]
    assert forwards == backwards[::-1]


def test_first_places_are_uniform() -> None:
    # 2000 epochs of 4: each sample leads 500 times, with standard deviation sqrt(2000·(1/4)(3/4)) = 19.4.
    leads = torch.tensor([int(epoch_order(4, epoch, 0)[0]) for epoch in range(2000)]).bincount(minlength=4)
    assert torch.all((leads - 500).abs() < 4.5 * 19.4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n must be at least 1 sample, got 0"):
        epoch_order(0, 0, 0)
    with pytest.raises(ValueError, match="n must be at least 1 sample, got 0"):
        batch_indices(0, 1, 0, 0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        batch_indices(5, 0, 0, 0)
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        batch_indices(5, 2, -1, 0)
    with pytest.raises(ValueError, match="must not be negative, got epoch=-1, seed=0"):
        epoch_order(5, -1, 0)
    with pytest.raises(ValueError, match="must not be negative, got epoch=0, seed=-2"):
        batch_indices(5, 2, 0, -2)
