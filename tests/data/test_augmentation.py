"""Augmentation of images, against images whose values are known everywhere."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.data.augmentation import augmented, resampled
from scoresde.networks import MLP, UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import make_trainer
from scoresde.training.loop import Trainer

F64 = torch.float64


def never(count: int) -> Tensor:
    """Uniform numbers that transform nothing."""
    return torch.full((count, 10), 0.999, dtype=F64)


def blobs(x: Tensor, y: Tensor) -> Tensor:
    """A smooth picture without symmetry, at places relative to the centre; 0 far from it."""
    one = torch.exp(-((x - 2) ** 2 + 1.5 * (y + 1) ** 2) / 18)
    return one - 0.7 * torch.exp(-((x + 3) ** 2 + 0.5 * (x + 3) * (y - 2) + (y - 2) ** 2) / 14)


def places(size: int) -> tuple[Tensor, Tensor]:
    line = torch.arange(size, dtype=F64) - (size - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def test_what_is_not_transformed_stays_to_the_bit() -> None:
    x = torch.randn(5, 3, 12, 8)
    out, labels = augmented(x, torch.rand(5, 10, dtype=F64) * 0.5 + 0.5, torch.randn(5, 4), 0.0)
    assert torch.equal(out, x)
    assert torch.equal(labels, torch.zeros(5, 9))
    # Doubling and halving alone lose nothing, either.
    eye, zero = torch.eye(2, dtype=F64).expand(5, 2, 2), torch.zeros(5, 2, 1, dtype=F64)
    torch.testing.assert_close(resampled(x.double(), eye, zero), x.double(), rtol=0, atol=1e-10)


def test_mirroring_is_exact_and_told() -> None:
    x, uniform = torch.randn(4, 1, 6, 6), never(4)
    uniform[[1, 3], 0] = 0.2
    uniform[[2, 3], 1:3] = 0.05
    out, labels = augmented(x, uniform, torch.zeros(4, 4), 0.1)
    expected = torch.stack((x[0], x[1].flip(2), x[2].flip(1), x[3].flip(1, 2)))
    assert torch.equal(out, expected)
    assert labels.tolist() == [[a, b, *(0.0,) * 7] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))]


def test_shifts_by_pixels_read_reflections() -> None:
    x, uniform = torch.randn(2, 2, 16, 24, dtype=F64), never(2)
    uniform[:, 9] = 0
    normal = torch.tensor([[9.0, 9, 1.0, -2.0], [9, 9, 0, 0.5]])
    out, labels = augmented(x, uniform, normal, 0.1)
    padded = F.pad(x, (8, 8, 8, 8), mode="reflect")
    # By 3 of 24 columns to the right and 4 of 16 rows up, and by one row down.
    expected = torch.stack((padded[0, :, 12:28, 5:29], padded[1, :, 7:23, 8:32]))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    assert labels.tolist() == [[*(0.0,) * 7, 1.0, -2.0], [*(0.0,) * 7, 0.0, 0.5]]


@pytest.mark.parametrize("only", ["scale", "rotate", "stretch", "stretch along an axis", "shift", "all"])
def test_transformations_read_the_picture_where_the_labels_say(only: str) -> None:
    size, count = 40, 6
    torch.manual_seed(0)
    uniform = never(count)
    uniform[:, [5, 7]] = torch.rand(count, 2, dtype=F64)
    columns = {"scale": [3], "rotate": [4], "stretch": [6, 8], "stretch along an axis": [6], "shift": [9]}
    for column in columns.get(only, [3, 4, 6, 8, 9]):
        uniform[:, column] = 0.01
    normal = torch.randn(count, 4, dtype=F64).clamp(-1.2, 1.2) * torch.tensor([1, 1, 0.5, 0.5])
    normal[:, 1] = normal[:, 1].abs()  # as published, a label does not tell −z along a direction from z against it
    x, y = places(size)
    image = blobs(x, y).expand(count, 1, size, size)
    out, labels = augmented(image, uniform, normal, 0.1)
    assert bool(labels[:, :2].eq(0).all())
    slope = max(float(part.abs().max()) for part in torch.gradient(image[0, 0]))
    changes = []
    for row in range(count):
        _, _, z, cosine, sine, along, across, right, lower = labels[row].double().tolist()
        # From the picture: shifted, stretched along a direction, turned and scaled, told backwards.
        u, v = x - 0.125 * size * right, y - 0.125 * size * lower
        angle, stretch = math.atan2(across, along), 2 ** (0.2 * math.hypot(along, across))
        p, q = math.cos(angle) * u - math.sin(angle) * v, math.sin(angle) * u + math.cos(angle) * v
        p, q = p / stretch, q * stretch
        u, v = math.cos(angle) * p + math.sin(angle) * q, -math.sin(angle) * p + math.cos(angle) * q
        u, v = (cosine + 1) * u - sine * v, sine * u + (cosine + 1) * v
        u, v = u * 2 ** (-0.2 * z), v * 2 ** (-0.2 * z)
        expected = blobs(u, v)
        inside = torch.maximum(u.abs(), v.abs()) < size / 2 - 1  # and not in reflections
        assert float((out[row, 0] - expected)[inside].abs().max()) < 0.1 * slope  # a tenth of a pixel
        changes.append(float((image[row, 0] - expected).abs().max()))
    assert max(changes) > 0.1


def test_a_sample_does_not_depend_on_its_mates() -> None:
    x, uniform, normal = torch.randn(6, 1, 10, 10, dtype=F64), torch.rand(6, 10), torch.randn(6, 4)
    whole, labels = augmented(x, uniform, normal, 0.5)
    for row in range(6):
        one, label = augmented(x[row : row + 1], uniform[row : row + 1], normal[row : row + 1], 0.5)
        torch.testing.assert_close(one[0], whole[row], rtol=0, atol=1e-9)
        assert torch.equal(label[0], labels[row])


def trainer(**options: Any) -> Trainer:
    """Of images on which a small network is trained."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8)
    network = UNet((1, 8, 8), channels=4, blocks=1, augmentations=options.pop("augmentations", 9))
    model = NetworkScore(network, VPSDE(), EDMPreconditioning(0.5))
    return make_trainer(model, images, 4, batch_size=12, **{"augment": 0.12, **options})


def test_training_tells_the_network_of_each_sample() -> None:
    one = trainer()
    batch = one.batches(3)
    labels = batch.conditions["augment_labels"]
    assert labels.shape == (12, 9)
    assert torch.equal(one.batches(3).x0, batch.x0)
    plain = trainer(augment=None).batches(3)
    assert not plain.conditions
    for row in range(12):
        assert torch.equal(batch.x0[row], plain.x0[row]) == (not labels[row].any())
    assert 0 < int((labels != 0).any(1).sum()) < 12
    assert not any(part.conditions for part in one.batches.held_out())
    told: list[Any] = []
    one.bare.register_forward_pre_hook(lambda _, args, given: told.append(given["augment_labels"]), with_kwargs=True)
    next(one.steps())
    assert torch.equal(told[0], one.batches(0).conditions["augment_labels"])
    assert float(one.bare.conditioning.augmentation.weight.detach().abs().max()) > 0  # type: ignore[union-attr]


def test_augmentation_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 0: set network.augmentations=9"):
        trainer(augmentations=0)
    vectors = NetworkScore(MLP((2,), width=8, blocks=1), VPSDE(), EDMPreconditioning(0.5))
    with pytest.raises(ValueError, match=r"training.augment is for images, and .* has samples of shape \(2,\)"):
        make_trainer(vectors, torch.randn(30, 2), 4, augment=0.12)
    with pytest.raises(ValueError, match=r"set training.flip=false"):
        trainer(flip=True)
    with pytest.raises(ValueError, match=r"training.augment is 1.5"):
        trainer(augment=1.5)
