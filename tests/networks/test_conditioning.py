import math

import pytest
import torch
from torch import nn

from scoresde.networks import Conditioning, PositionalFeatures
from scoresde.networks.conditioning import Modulation, check_inputs


def test_modulation_scales_and_shifts_each_channel() -> None:
    modulation = Modulation(5, 3)
    h, condition = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    scale, shift = modulation.linear(condition).split(3, dim=1)
    for image, s, b, out in zip(h, scale, shift, modulation(h, condition), strict=True):
        for channel in range(3):
            torch.testing.assert_close(out[channel], image[channel] * (1 + s[channel]) + b[channel])
    flat = h[:, :, 0, 0]
    torch.testing.assert_close(modulation(flat, condition), modulation(h, condition)[:, :, 0, 0])


def test_conditioning_depends_on_noise_level_and_label() -> None:
    conditioning = Conditioning(16, num_classes=3)
    c_noise, labels = torch.tensor([0.1, 0.1, 0.2]), torch.tensor([0, 1, 1])
    out = conditioning(c_noise, labels)
    assert out.shape == (3, 16)
    assert not torch.allclose(out[0], out[1])
    assert not torch.allclose(out[1], out[2])


def test_conditioning_takes_noise_levels_of_another_dtype() -> None:
    conditioning = Conditioning(16)
    c_noise = torch.linspace(-2, 1.5, 5)
    out = conditioning(c_noise.double())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, conditioning(c_noise))


def test_labels_must_match_what_the_network_was_built_for() -> None:
    c_noise = torch.zeros(2)
    with pytest.raises(ValueError, match="takes no labels"):
        Conditioning(8)(c_noise, torch.tensor([0, 1]))
    conditioning = Conditioning(8, num_classes=3)
    with pytest.raises(ValueError, match=r"needs labels in \[0, 3\).*label_dropout > 0"):
        conditioning(c_noise)
    with pytest.raises(TypeError, match=r"labels must be int64, got torch\.float32"):
        conditioning(c_noise, torch.zeros(2))
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\).*got \(3,\)"):
        conditioning(c_noise, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\).*got \(2, 1\)"):
        conditioning(c_noise, torch.tensor([[0], [1]]))


@pytest.mark.parametrize("label_dropout", [0.0, 0.1])
@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_out_of_range(wrong: int, label_dropout: float) -> None:
    conditioning = Conditioning(8, num_classes=3, label_dropout=label_dropout)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\)"):
        conditioning(torch.zeros(2), torch.tensor([0, wrong]))


def test_no_labels_means_the_unconditional_class() -> None:
    conditioning = Conditioning(8, num_classes=2, label_dropout=0.1).eval()
    assert conditioning.unconditional is not None
    nn.init.normal_(conditioning.unconditional)
    c_noise = torch.zeros(3)
    free = conditioning(c_noise)
    assert free.shape == (3, 8)
    with torch.no_grad():
        assert conditioning.classes is not None
        conditioning.classes.weight[1] = conditioning.unconditional
    torch.testing.assert_close(conditioning(c_noise, torch.ones(3, dtype=torch.int64)), free)
    assert not torch.allclose(conditioning(c_noise, torch.zeros(3, dtype=torch.int64)), free)


def test_labels_are_dropped_at_the_rate_in_training_only() -> None:
    torch.manual_seed(0)
    n, rate = 10000, 0.2
    conditioning = Conditioning(8, num_classes=2, label_dropout=rate)
    c_noise, labels = torch.zeros(n), torch.ones(n, dtype=torch.int64)
    free, kept = conditioning(c_noise[:1]), conditioning.eval()(c_noise[:1], labels[:1])
    out = conditioning.train()(c_noise, labels)
    dropped = torch.isclose(out, free, atol=1e-6).all(dim=1)
    assert torch.equal(~dropped, torch.isclose(out, kept, atol=1e-6).all(dim=1))
    # binomial standard error 0.004, five of them
    assert abs(dropped.float().mean().item() - rate) < 5 * math.sqrt(rate * (1 - rate) / n)
    torch.testing.assert_close(conditioning.eval()(c_noise, labels), kept.expand(n, -1))


def test_labels_work_under_vmap() -> None:
    conditioning = Conditioning(8, num_classes=3)
    c_noise, labels = torch.randn(4, 2), torch.randint(0, 3, (4, 2))
    out = torch.vmap(conditioning)(c_noise, labels)
    torch.testing.assert_close(out, conditioning(c_noise.flatten(), labels.flatten()).view(4, 2, 8))


def test_conditioning_takes_any_embedding_that_states_its_dim() -> None:
    assert Conditioning(8, PositionalFeatures(12)).input.in_features == 12
    with pytest.raises(TypeError, match=r"integer attribute dim.*got Identity"):
        Conditioning(8, nn.Identity())


def test_conditioning_rejects_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"num_classes must be at least 1.*got 0"):
        Conditioning(8, num_classes=0)
    with pytest.raises(ValueError, match=r"label_dropout must be in \[0, 1\), got 1"):
        Conditioning(8, num_classes=2, label_dropout=1.0)
    with pytest.raises(ValueError, match="set num_classes"):
        Conditioning(8, label_dropout=0.1)


def test_check_inputs_names_what_came_and_what_was_expected() -> None:
    check_inputs(torch.zeros(4, 2), torch.zeros(4), (2,))
    with pytest.raises(ValueError, match=r"\(B, 2\).*got \(4, 3\)"):
        check_inputs(torch.zeros(4, 3), torch.zeros(4), (2,))
    with pytest.raises(ValueError, match=r"\(B, 2\).*got \(\)"):
        check_inputs(torch.zeros(()), torch.zeros(4), (2,))
    for wrong in (torch.zeros(()), torch.zeros(1), torch.zeros(4, 1)):
        with pytest.raises(ValueError, match=r"c_noise must have shape \(4,\)"):
            check_inputs(torch.zeros(4, 2), wrong, (2,))
