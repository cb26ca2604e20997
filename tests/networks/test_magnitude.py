import math

import pytest
import torch
from torch import Tensor

from scoresde.networks.magnitude import (
    MagnitudeConv,
    MagnitudeFourier,
    MagnitudeLabels,
    MagnitudeLinear,
    magnitude_cat,
    magnitude_silu,
    magnitude_sum,
    unit_magnitude,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def magnitude(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def test_unit_magnitude_is_x_over_its_root_mean_square() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    rms = math.sqrt(12.5) + 1e-4
    expected = torch.tensor([[3 / rms, 4 / rms], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unit_magnitude(x, 1), expected)


def test_the_silu_of_a_standard_normal_has_unit_magnitude() -> None:
    z = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    density = (-0.5 * z**2).exp() / math.sqrt(2 * math.pi)
    square = float(torch.trapezoid(density * magnitude_silu(z) ** 2, z))
    assert math.sqrt(square) == pytest.approx(1, abs=1e-3)  # 0.596 has three digits


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
def test_sums_and_concatenations_keep_the_magnitude_and_have_the_shares(share: float) -> None:
    a, b = normal(100, 40, 8, 8), normal(100, 10, 8, 8, seed=1)
    both = magnitude_sum(a, normal(100, 40, 8, 8, seed=2), share)
    assert magnitude(both) == pytest.approx(1, abs=0.01)
    together = magnitude_cat(a, b, share)
    assert together.shape == (100, 50, 8, 8)
    assert magnitude(together) == pytest.approx(1, abs=0.01)
    # What a layer with weights of equal norm receives from each, whatever their numbers of channels.
    first, second = (float(part.square().sum()) for part in together.split([40, 10], 1))
    assert math.sqrt(second / first) == pytest.approx(share / (1 - share), rel=0.02) if share < 1 else first == 0


def test_layers_keep_the_magnitude_whatever_the_size_of_their_weights() -> None:
    torch.manual_seed(0)
    linear, conv = MagnitudeLinear(64, 200).double().eval(), MagnitudeConv(16, 100, 3).double().eval()
    labels = MagnitudeLabels(50, 400).double().eval()
    x, image = normal(500, 64), normal(20, 16, 12, 12)
    outputs = []
    for scale in (1.0, 30.0):
        with torch.no_grad():
            for layer in (linear, conv, labels):
                layer.weight.mul_(scale)
        outputs.append((linear(x), conv(image)[..., 1:-1, 1:-1], labels(torch.arange(50))))
        for out in outputs[-1]:
            assert magnitude(out) == pytest.approx(1, abs=0.05)
    for out, larger in zip(*outputs, strict=True):
        torch.testing.assert_close(out, larger, rtol=2e-4, atol=2e-4)  # the 1e-4 beside the norm
    torch.testing.assert_close(linear(x, gain=0.25), 0.25 * linear(x))


def test_label_vectors_are_what_a_linear_layer_makes_of_scaled_one_hot_labels() -> None:
    torch.manual_seed(0)
    labels, linear = MagnitudeLabels(7, 5).double(), MagnitudeLinear(7, 5).double()
    linear.load_state_dict(labels.state_dict())
    y = torch.tensor([0, 6, 3])
    one_hot = torch.nn.functional.one_hot(y, 7).double() * math.sqrt(7)
    torch.testing.assert_close(labels(y), linear(one_hot))


def test_training_normalises_the_stored_weight_and_evaluation_does_not() -> None:
    torch.manual_seed(0)
    layer = MagnitudeConv(3, 4, 3).double()
    with torch.no_grad():
        layer.weight.mul_(10)
    before, x = layer.weight.detach().clone(), normal(1, 3, 5, 5)
    layer.eval()
    evaluated = layer(x)
    assert torch.equal(layer.weight, before)
    layer.train()
    trained = layer(x)
    norms = layer.weight.detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(norms, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(trained, evaluated, rtol=2e-4, atol=2e-4)
    # The gradient has no part along the weight of an output.
    trained.square().sum().backward()
    assert layer.weight.grad is not None
    cosine = torch.cosine_similarity(layer.weight.grad.flatten(1), layer.weight.detach().flatten(1))
    assert cosine.abs().max() < 1e-3


def test_two_evaluations_in_one_graph_are_differentiated() -> None:
    torch.manual_seed(0)
    layer = MagnitudeLinear(3, 2)
    (layer(torch.ones(1, 3)) * layer(torch.tensor([[1.0, 0.0, 2.0]]))).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.any()


def test_fourier_features_follow_the_formula_and_have_unit_magnitude() -> None:
    features = MagnitudeFourier(2000, bandwidth=1.0, seed=3)
    c = torch.tensor([0.0, 0.7, -1.3])
    expected = math.sqrt(2) * torch.cos(c[:, None] * features.frequencies + features.phases)
    torch.testing.assert_close(features(c), expected)
    assert features(c).square().mean(1).sqrt().tolist() == pytest.approx([1, 1, 1], abs=0.05)
    assert float(features.frequencies.std()) == pytest.approx(2 * math.pi, rel=0.05)
    assert 0 <= float(features.phases.min()) < 0.1 < 6.2 < float(features.phases.max()) <= 2 * math.pi
    assert set(features.state_dict()) == {"frequencies", "phases"}
