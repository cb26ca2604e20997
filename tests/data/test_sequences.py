from typing import Any

import pytest
import torch

from scoresde.data import Discrete, heartbeat


def test_a_sequence_is_on_at_every_fifth_place_from_its_phase() -> None:
    data = heartbeat(n_train=400, n_test=50)
    assert (data.train.shape, data.test.shape, data.train.dtype) == ((400, 20), (50, 20), torch.uint8)
    assert data.transform == Discrete(2)
    for values, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert labels is not None
        for sequence, phase in zip(values.tolist(), labels.tolist(), strict=True):
            assert [i for i, on in enumerate(sequence) if on] == [phase, phase + 5, phase + 10, phase + 15]
    assert data.train_labels is not None
    counts = torch.bincount(data.train_labels, minlength=5)
    assert float(((counts - 80).square() / 80).sum()) < 20  # χ² of 4 degrees of freedom: 1 in 2000


def test_splits_are_streams_of_their_own() -> None:
    a, b, c = heartbeat(50, 20), heartbeat(60, 20), heartbeat(50, 20, seed=1)
    assert torch.equal(a.test, b.test)
    assert torch.equal(a.train, b.train[:50])
    assert not torch.equal(a.train, c.train)
    assert not torch.equal(a.train[:20], a.test)


def test_another_length_and_period() -> None:
    data = heartbeat(30, 5, length=7, period=3, labels=False)
    assert data.num_classes is None
    assert {tuple(row) for row in data.train.tolist()} == {
        (1, 0, 0, 1, 0, 0, 1),
        (0, 1, 0, 0, 1, 0, 0),
        (0, 0, 1, 0, 0, 1, 0),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "at least 1, got 0 and 2000"),
        ({"seed": -3}, "seed must be"),
        ({"period": 1}, "period"),
        ({"length": 4}, "length"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heartbeat(**arguments)
