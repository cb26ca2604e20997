import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.networks import EDM2UNet
from scoresde.networks.resampling import Resample


def small(**kwargs: object) -> EDM2UNet:
    settings: dict[str, object] = {
        "shape": (2, 8, 4), "channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (-1,), "head_channels": 8,
    } | kwargs  # fmt: skip
    torch.manual_seed(0)
    network = EDM2UNet(**settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.normal_()
    return network.eval()


def batch(shape: tuple[int, ...] = (2, 8, 4), n: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, *shape, generator=generator, dtype=dtype), torch.linspace(-1.5, 1, n, dtype=dtype)


class Written:
    """The network written out from the equations of Karras et al. 2024, with plain functions of the tensors."""

    def __init__(self, network: EDM2UNet, blocks: int, levels: int) -> None:
        self.w, self.blocks, self.levels = network.state_dict(), blocks, levels

    def layer(self, name: str, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w = self.w[f"{name}.weight"]
        fan = w[0].numel()
        norm = w.flatten(1).norm(dim=1).reshape(-1, *[1] * (w.ndim - 1))
        w = w / (1e-4 + norm / math.sqrt(fan)) * gain / math.sqrt(fan)
        return x @ w.T if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)

    @staticmethod
    def silu(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x) / 0.596

    @staticmethod
    def sum(a: Tensor, b: Tensor, t: float) -> Tensor:
        return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)

    def block(self, name: str, x: Tensor, c: Tensor, encoder: bool) -> Tensor:
        skip = f"{name}.skip.weight" in self.w
        if encoder:
            x = self.layer(f"{name}.skip", x) if skip else x
            x = x / (1e-4 + x.square().mean(1, keepdim=True).sqrt())
        y = self.layer(f"{name}.first", self.silu(x))
        y = self.silu(y * (self.layer(f"{name}.modulation", c, self.w[f"{name}.gain"]) + 1)[:, :, None, None])
        y = self.layer(f"{name}.second", y)
        if not encoder and skip:
            x = self.layer(f"{name}.skip", x)
        x = self.sum(x, y, 0.3)
        if f"{name}.attention.qkv.weight" in self.w:
            b, channels, h, w = x.shape
            heads = channels // 8
            qkv = self.layer(f"{name}.attention.qkv", x).reshape(b, heads, 8, 3, h * w)
            qkv = qkv / (1e-4 + qkv.square().mean(2, keepdim=True).sqrt())
            q, k, v = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]
            weights = torch.einsum("bhcq,bhck->bhqk", q, k / math.sqrt(8)).softmax(-1)
            y = torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(b, channels, h, w)
            x = self.sum(x, self.layer(f"{name}.attention.project", y), 0.3)
        return x.clamp(-256, 256)

    def __call__(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        features = math.sqrt(2) * torch.cos(
            c_noise[:, None] * self.w["embedding.frequencies"] + self.w["embedding.phases"]
        )
        classes = self.w["labels.weight"].shape[1]
        label = self.layer("labels", F.one_hot(labels, classes).double() * math.sqrt(classes))
        c = self.silu(self.sum(self.layer("noise", features), label, 0.5))
        x = self.layer("input", torch.cat((x, torch.ones_like(x[:, :1])), 1))
        skips, i = [x], 0
        for level in range(self.levels):
            if level:
                x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
            for _ in range(self.blocks + (level > 0)):
                x = self.block(f"encoder.{i}", x, c, True)
                skips.append(x)
                i += 1
        i = 0
        for level in reversed(range(self.levels)):
            for _ in range(2 if level == self.levels - 1 else 1):
                if level < self.levels - 1:
                    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.block(f"decoder.{i}", x, c, False)
                i += 1
            for _ in range(self.blocks + 1):
                skip = skips.pop()
                a, b = x.shape[1], skip.shape[1]
                x = torch.cat((x * math.sqrt((a + b) / a / 2), skip * math.sqrt((a + b) / b / 2)), 1)
                x = self.block(f"decoder.{i}", x, c, False)
                i += 1
        return self.layer("output", x, self.w["output_gain"])


@pytest.mark.parametrize(("blocks", "multipliers"), [(1, (1, 2)), (2, (2, 1, 3))])
def test_network_follows_the_equations(blocks: int, multipliers: tuple[int, ...]) -> None:
    network = small(blocks=blocks, multipliers=multipliers, num_classes=3, attention=(0, -1)).double()
    x, c_noise = batch()
    labels = torch.tensor([2, 0, 1])
    expected = Written(network, blocks, len(multipliers))(x, c_noise, labels)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(network(x, c_noise, labels), expected)


def test_a_new_network_returns_zero_and_features_of_unit_magnitude() -> None:
    torch.manual_seed(0)
    network = EDM2UNet((3, 16, 16), channels=32, multipliers=(1, 2), blocks=1, num_classes=4)
    x, c_noise = batch((3, 16, 16), n=8, dtype=torch.float32)
    labels = torch.arange(8) % 4
    assert torch.equal(network(x, c_noise, labels), torch.zeros_like(x))
    network.eval()
    with torch.no_grad():
        network.output_gain.fill_(1.0)
        out = network(x, c_noise, labels)
    assert float(out.square().mean().sqrt()) == pytest.approx(1, abs=0.25)


def test_conditions_keep_magnitudes_and_reach_every_parameter() -> None:
    x, c_noise = batch((3, 16, 16), n=16, dtype=torch.float32)
    given = {"vector": torch.randn(16, 2), "image": torch.randn(16, 1, 16, 16), "tokens": 30 * torch.randn(16, 7, 5)}
    magnitudes = []
    for seed in range(6):
        torch.manual_seed(seed)
        network = EDM2UNet(
            (3, 16, 16), 32, (1, 2), 1, (-1,), 16, vector_size=2, image_channels=1, token_size=5, condition_dropout=0.3
        ).eval()
        with torch.no_grad():
            network.output_gain.fill_(1.0)
            magnitudes.append(float(network(x, c_noise, **given).square().mean().sqrt()))
            for block in (*network.encoder, *network.decoder):
                block.gain.fill_(0.5)  # type: ignore[operator, union-attr]
    assert sum(magnitudes) / 6 == pytest.approx(1, abs=0.25)
    mask = torch.arange(16)[:, None] > torch.arange(7) + 4
    network.train()(x, c_noise, **given, mask=mask).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# Karras et al. 2024, table 2: millions of parameters for latents of ImageNet at 512 pixels.
@pytest.mark.parametrize(("channels", "millions"), [(128, 125), (192, 280), (256, 498), (320, 777), (384, 1119)])
def test_published_networks_have_as_many_parameters(channels: int, millions: int) -> None:
    with torch.device("meta"):
        network = EDM2UNet((4, 64, 64), channels, num_classes=1000, log_variance=128)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_gradient_reaches_every_parameter() -> None:
    network = small(num_classes=3, label_dropout=0.5, dropout=0.1, attention=(0, 1), log_variance=8).train().double()
    x, c_noise = batch(n=16)
    assert network.log_variance is not None
    out = network(x, c_noise, torch.arange(16) % 3)
    (out.square().sum() + network.log_variance(c_noise).square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_no_label_is_a_zero_vector_where_the_network_takes_it() -> None:
    network = small(num_classes=3, label_dropout=0.1).double()
    x, c_noise = batch()
    without = network(x, c_noise)
    with torch.no_grad():
        assert network.labels is not None
        network.labels.weight.zero_()
    torch.testing.assert_close(without, network(x, c_noise, torch.tensor([0, 1, 2])))
    assert small(num_classes=3, unlabelled=True).double()(x, c_noise).shape == x.shape
    with pytest.raises(ValueError, match="needs labels in"):
        small(num_classes=3)(x, c_noise)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\)"):
        small(num_classes=3).double()(x, c_noise, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="takes no labels"):
        small()(x, c_noise, torch.tensor([0, 1, 2]))


def test_forward_and_backward_derivatives_agree() -> None:
    network = small(taps=(1, 3, 3, 1)).double()
    x, c_noise = batch(n=1)
    v, w = batch(n=1)[0] ** 2, batch(n=1)[0].flip(-1)
    with sdpa_kernel(SDPBackend.MATH):
        forward = torch.func.jvp(lambda y: network(y, c_noise), (x,), (v,))[1]
    pull = torch.func.vjp(lambda y: network(y, c_noise), x)[1]
    torch.testing.assert_close((forward * w).sum(), (pull(w)[0] * v).sum())


def test_longer_filters_keep_constants_and_move_nothing() -> None:
    x = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 2, 16, 16)
    for direction, size in (("down", 8), ("up", 32)):
        made = Resample(2, (1, 3, 3, 1), direction).double()(x)
        assert made.shape == (1, 2, size, size)
        # A ramp stays one at the new pixels' places, away from the borders.
        centres = (torch.arange(size, dtype=torch.float64) + 0.5) * (16 / size) - 0.5
        torch.testing.assert_close(made[0, 0, size // 2, 2:-2], centres[2:-2] / 15)
        plain, general = (Resample(2, taps, direction).double() for taps in ((1, 1), (1, 1)))
        general.plain = False
        torch.testing.assert_close(plain(x), general(x))


def test_shapes_and_settings_that_do_not_fit_are_refused() -> None:
    for settings, message in (
        ({"shape": (1, 30, 33), "multipliers": (1, 2, 2)}, "28x32 and 32x36 are the nearest"),
        ({"shape": (5,)}, "MLP"),
        ({"shape": (1, 1, 4)}, "2x4 is the nearest"),
        ({"multipliers": ()}, "at least one level"),
        ({"attention": (2,)}, "attention must list levels"),
        ({"taps": (1, 2, 1)}, "even number"),
        ({"skip_share": 0.0}, "skip_share"),
        ({"head_channels": 3, "channels": 7}, "do not divide into"),
        ({"blocks": 0}, "at least 1"),
        ({"label_dropout": 0.1}, "needs labels to drop"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**settings)
