"""The data of the models of a cascade, and what a run remembers of them."""

import pytest
import torch

from scoresde.data import CascadePart, Data, DataInfo, LowResolution, digits, super_resolution_data


def test_a_part_is_the_data_of_one_model() -> None:
    data = digits()
    base, middle, upper = (
        part.of(data) for part in (CascadePart(4), CascadePart(2, 2, augmentation=0.3), CascadePart(factor=2))
    )
    assert (base.shape, base.condition_shapes) == ((1, 2, 2), {})
    assert (middle.shape, middle.condition_shapes) == ((1, 4, 4), {"image": (1, 2, 2), "vector": (1,)})
    assert (upper.shape, upper.condition_shapes) == ((1, 8, 8), {"image": (1, 4, 4)})
    # What a model is given is what the samples of the one before are, in the same units.
    assert torch.allclose(upper.conditions("test")["image"], middle.transform.encode(middle.test), atol=1e-6)
    given = middle.conditions("train")
    assert torch.allclose(given["image"], base.transform.encode(base.train), atol=1e-6)
    assert torch.equal(given["vector"], torch.zeros(1437, 1))


def test_conditions_join_those_that_the_data_have() -> None:
    x, own = torch.randn(12, 1, 4, 4), torch.randn(12, 2, dtype=torch.float64)
    data = Data("x", x, x[:5], train_conditions={"vector": own}, test_conditions={"vector": own[:5]})
    assert data.conditions("test")["vector"] is data.test_conditions["vector"]  # type: ignore[index]
    made = super_resolution_data(data, LowResolution(2, 0.5))
    assert made.condition_shapes == {"vector": (3,), "image": (1, 2, 2)}
    given = made.conditions("test")
    assert torch.equal(given["vector"], torch.cat((own[:5], torch.zeros(5, 1, dtype=torch.float64)), 1))
    assert torch.allclose(given["image"], LowResolution(2)(x[:5]))


def test_the_fingerprint_tells_what_makes_conditions() -> None:
    data = digits()
    prints = [super_resolution_data(data, LowResolution(*low)).fingerprint() for low in ((2,), (2, 0.5), (4,))]
    assert len({data.fingerprint(), *prints}) == 4


def test_facts_of_super_resolution_data_survive_a_file() -> None:
    data = CascadePart(factor=2, augmentation=0.5).of(digits())
    info = DataInfo.of(data)
    assert info == DataInfo.from_plain(info.to_plain())
    assert info.low_resolution == LowResolution(2, 0.5)
    image = info.conditions["image"]
    assert image.shape == (1, 4, 4)
    assert image.mean is not None
    assert image.mean[0] == pytest.approx(float(data.conditions("train")["image"].mean()), abs=1e-5)
    assert info.conditions["vector"].std == pytest.approx((0.5 / 12**0.5,))
    with pytest.raises(ValueError, match=r"low_resolution is \{'factor': 2\}, which describes no data"):
        DataInfo.from_plain(info.to_plain() | {"low_resolution": {"factor": 2}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduced": 0}, "reduced is 0, expected at least 1"),
        ({}, "reduced is 1 and factor is None, which is no part of a cascade"),
        ({"factor": 1}, "factor is 1, expected at least 2"),
        ({"factor": 2, "augmentation": -1.0}, "augmentation is -1.0, expected a level from 0"),
        ({"reduced": 2, "augmentation": 0.5}, "augmentation is 0.5 without a condition to add noise to"),
    ],
)
def test_errors_name_what_is_wrong(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CascadePart(**options)  # type: ignore[arg-type]
