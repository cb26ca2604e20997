"""Images at low resolution: as data, and as conditions of a batch in training."""

import pytest
import torch

from scoresde.data import Data, LowResolution, base_data, digits, super_resolution_data
from scoresde.networks import UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.training import fit, make_trainer

LOW = LowResolution(2, augmentation=0.5)


def test_smaller_levels_are_the_means_of_the_pixels_in_model_space() -> None:
    data = digits()
    small = base_data(data, LOW)
    assert repr(small).startswith("Data(digits at 4×4: 1437 train, 360 test, shape (1, 4, 4), 10 classes, ")
    assert small.transform.levels == 65
    assert small.train_labels is not None
    assert torch.equal(small.train.sum((1, 2, 3)), data.train.sum((1, 2, 3)))
    means = LOW(data.transform.encode(data.train))
    assert torch.allclose(small.transform.encode(small.train), means, atol=1e-6)


def test_continuous_data_have_conditions_in_their_own_units() -> None:
    x = 100 + 5 * torch.randn(300, 2, 6, generator=torch.Generator().manual_seed(0))
    data = super_resolution_data(Data("signals", x[:200], x[200:]), LowResolution(3))
    small = base_data(data, LowResolution(3))
    assert small.shape == (2, 2)
    assert small.low_resolution is None
    assert torch.allclose(small.train, LowResolution(3)(x[:200]))
    made = LowResolution(3).conditions(data.transform.encode(x[:4]), data.transform, 0, torch.arange(4))
    assert set(made) == {"image"}
    assert torch.allclose(made["image"], small.train[:4], atol=1e-3)


def test_noise_has_the_level_that_is_told_and_belongs_to_the_sample() -> None:
    x, transform = torch.zeros(4000, 1, 8, 8), digits().transform
    made = LOW.conditions(x, transform, 3, torch.arange(4000))
    level = made["vector"]
    assert level.shape == (4000, 1)
    assert abs(float(level.mean()) - 0.25) < 4 * 0.5 / (12 * 4000) ** 0.5
    assert 0 <= float(level.min()) <= float(level.max()) <= 0.5
    noise = made["image"].flatten(1) / level
    assert abs(float(noise.var()) - 1) < 4 * (2 / 64000) ** 0.5
    assert abs(float((noise[:, 0] * level[:, 0]).mean())) < 4 * 0.29 / 4000**0.5
    some = torch.tensor([7, 2])
    again = LOW.conditions(x[:2], transform, 3, some)
    assert torch.equal(again["image"], made["image"][some])
    assert not torch.equal(LOW.conditions(x[:2], transform, 4, some)["image"], again["image"])


def network() -> NetworkScore:
    torch.manual_seed(0)
    net = UNet((1, 8, 8), channels=8, blocks=1, image_channels=1, vector_size=1)
    return NetworkScore(net, EDMSDE(), EDMPreconditioning())


def test_training_has_new_noise_in_every_step_and_standardises_the_conditions() -> None:
    data = super_resolution_data(digits(labels=False), LOW)
    trainer = make_trainer(network(), data, 3, batch_size=16)
    one, two = trainer.batches(0), trainer.batches(1)
    assert set(one.conditions) == {"image", "vector"}
    assert one.conditions["image"].shape == (16, 1, 4, 4)
    assert not torch.equal(one.conditions["vector"], two.conditions["vector"])
    again = trainer.batches(0)
    assert all(torch.equal(again.conditions[name], value) for name, value in one.conditions.items())
    noise = one.conditions["image"] - LOW(one.x0)
    assert torch.all(noise.flatten(1).std(1) < 1.6 * one.conditions["vector"][:, 0])
    held_out = trainer.batches.held_out()[0].conditions
    assert not torch.equal(held_out["vector"], one.conditions["vector"])
    many = torch.cat([trainer.batches(step).conditions["image"] for step in range(60)])
    condition = trainer.model.network.image
    standard = condition.standardised(many, torch.float32)
    assert abs(float(standard.mean())) < 0.1
    assert abs(float(standard.std()) - 1) < 0.1
    assert fit(network(), data, 2, batch_size=8, progress=False).skipped == 0


def test_the_level_joins_a_vector_of_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(50, 1, 4, 4, generator=generator), 100 + torch.randn(50, 2, generator=generator)
    given = {"vector": v}
    data = super_resolution_data(Data("x", x, x, train_conditions=given, test_conditions=given), LOW)
    net = UNet((1, 4, 4), channels=8, blocks=1, image_channels=1, vector_size=3)
    trainer = make_trainer(NetworkScore(net, EDMSDE(), EDMPreconditioning()), data, 3, batch_size=16)
    vector = trainer.batches(0).conditions["vector"]
    assert vector.shape == (16, 3)
    assert float(vector[:, :2].min()) > 90
    assert 0 <= float(vector[:, 2].min()) <= float(vector[:, 2].max()) <= 0.5
    assert float(net.conditioning.vector.standardised(vector, torch.float32).abs().max()) < 4


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="factor is 1, expected at least 2"):
        LowResolution(1)
    with pytest.raises(ValueError, match="augmentation is -0.1, expected a level from 0"):
        LowResolution(2, -0.1)
    with pytest.raises(
        ValueError, match=r"samples have shape \(1, 8, 8\), expected \(C, ...\) with sides that are mul"
    ):
        super_resolution_data(digits(), LowResolution(3))
    given = {"image": torch.zeros(10, 1, 2, 2)}
    x = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    other = Data("x", x, x, train_conditions=given, test_conditions=given)
    with pytest.raises(ValueError, match="an image as a condition already"):
        super_resolution_data(other, LOW)
    with pytest.raises(ValueError, match="network takes vector .1,., and digits has image"):
        fit(network(), super_resolution_data(digits(labels=False), LowResolution(2)), 1, progress=False)
    plain = NetworkScore(UNet((1, 8, 8), channels=8, blocks=1), EDMSDE(), EDMPreconditioning())
    with pytest.raises(ValueError, match="for super-resolution, and the network takes no image: build it with image_c"):
        fit(plain, super_resolution_data(digits(labels=False), LOW), 1, progress=False)
