"""Classifiers of noised samples: logits of images, signals and vectors."""

import pytest
import torch
from torch import Tensor, nn

from scoresde.networks import MLPClassifier, UNetClassifier
from tests.problems import generator

SHAPES = {"image": (1, 7, 6), "signal": (2, 20), "vector": (3,)}


def made(shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """A classifier of random weights for samples of a shape."""
    torch.manual_seed(seed)
    network: nn.Module = (
        MLPClassifier(shape, 4, width=16, blocks=2, dropout=0.1)
        if len(shape) == 1
        else UNetClassifier(shape, 4, channels=8, blocks=1, dropout=0.1)
    )
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator(seed)))
    return network.eval()


@pytest.mark.parametrize("kind", SHAPES)
def test_a_new_network_gives_equal_probabilities(kind: str) -> None:
    shape = SHAPES[kind]
    new = MLPClassifier(shape, 4, width=8) if kind == "vector" else UNetClassifier(shape, 4, channels=8)
    assert torch.equal(new(torch.randn(2, *shape), torch.zeros(2)), torch.zeros(2, 4))


@pytest.mark.parametrize("kind", SHAPES)
def test_logits_depend_on_sample_and_noise_level_alone(kind: str) -> None:
    network = made(SHAPES[kind])
    x, levels = torch.randn(5, *SHAPES[kind], generator=generator()), torch.linspace(-1, 1, 5)
    logits = network(x, levels)
    assert logits.shape == (5, 4)
    torch.testing.assert_close(network(x[2:3], levels[2:3]), logits[2:3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(network(x, levels.flip(0))[0], logits[0], atol=1e-3)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_parameter_has_a_gradient_and_samples_have_one_under_vmap(kind: str) -> None:
    network = made(SHAPES[kind])
    x, level = torch.randn(3, *SHAPES[kind], generator=generator()), torch.tensor([-0.5, 0.0, 0.5])
    network(x, level).logsumexp(1).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []

    def first(one: Tensor, c_noise: Tensor) -> Tensor:
        found: Tensor = network(one[None], c_noise[None])[0, 0]
        return found

    each = torch.func.vmap(torch.func.grad(first))(x, level)
    assert each.shape == x.shape
    assert bool((each.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPClassifier((2,), 1), "num_classes must be at least 2"),
        (lambda: MLPClassifier((2,), "auto"), "which scoresde train settles by the data"),
        (lambda: MLPClassifier((2,), 2, width=0), "width must be at least 1, got 0"),
        (lambda: MLPClassifier((), 2), "shape must be one or more positive sizes"),
        (lambda: UNetClassifier((2,), 2), "UNet takes signals"),
        (lambda: UNetClassifier((1, 8, 8), 2, dropout=1.0), r"dropout must be in \[0, 1\)"),
        (lambda: UNetClassifier((1, 8, 8), 2, attention=(2,)), "attention must list levels from 0"),
        (lambda: UNetClassifier((1, 8, 8), 2, multipliers=(1, 0)), "multipliers must be above 0"),
        (lambda: made((3,))(torch.zeros(2, 4), torch.zeros(2)), "x must have shape"),
    ],
)
def test_bad_input_is_one_line(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)
