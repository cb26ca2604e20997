"""The options of the U-Net against equations written out here, and what every setting of them promises."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.networks import GaussianFourierFeatures, PositionalFeatures, UNet, adm, ddpm, ncsnpp, song_ncsnpp
from scoresde.networks.resampling import Resample

SMALL: dict[str, Any] = {"shape": (2, 8, 8), "channels": 8, "multipliers": (1, 2), "blocks": 1}


def build(seed: int = 0, **options: Any) -> UNet:
    """A network in float64 with noise on all weights, as after some training."""
    torch.manual_seed(seed)
    network = UNet(**(SMALL | options)).double().eval()
    return noisy(network)


def noisy(network: UNet) -> UNet:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def batch(shape: tuple[int, ...], n: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, *shape, generator=generator).double(), torch.linspace(-1.5, 1.0, n).double()


def test_by_default_it_is_the_network_of_before() -> None:
    # Figures of scoresde 0.1.0, in which this was the only U-Net.
    torch.manual_seed(0)
    network = UNet((1, 8, 8), 24, (1, 2), 1, attention=(-1,), dropout=0.1, num_classes=10, label_dropout=0.1).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    x = torch.randn(4, 1, 8, 8, generator=generator)
    out = network(x, torch.linspace(-2, 1.5, 4), torch.tensor([0, 1, 2, 3]))
    assert out.flatten()[[0, 5, 11]].tolist() == pytest.approx([0.3595664, -1.1143067, -1.2474167], rel=1e-5)
    assert out.abs().mean().item() == pytest.approx(0.5383640, rel=1e-5)


# --- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_filters_follow_their_sums(taps: tuple[int, ...]) -> None:
    x = torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    weights = torch.tensor(taps).double() / sum(taps)
    offset, size = (len(taps) - 1) // 2, len(taps)
    down, up = (Resample(2, taps, way).double()(x) for way in ("down", "up"))  # type: ignore[arg-type]
    assert (down.shape, up.shape) == ((1, 2, 3, 2), (1, 2, 12, 8))
    half, twice = torch.zeros_like(down), torch.zeros_like(up)
    for i in range(size):
        for j in range(size):
            weight = weights[i] * weights[j]
            for row in range(3):
                for column in range(2):
                    place = (2 * row + i - offset, 2 * column + j - offset)
                    if 0 <= place[0] < 6 and 0 <= place[1] < 4:
                        half[:, :, row, column] += weight * x[:, :, place[0], place[1]]
            for row in range(6):
                for column in range(4):
                    place = (2 * row + i - offset, 2 * column + j - offset)
                    if 0 <= place[0] < 12 and 0 <= place[1] < 8:
                        twice[:, :, place[0], place[1]] += 4 * weight * x[:, :, row, column]
    torch.testing.assert_close(down, half)
    torch.testing.assert_close(up, twice)


class Written:
    """NCSN++ and DDPM as score_sde's equations, on the weights of a U-Net by name."""

    def __init__(self, network: UNet, scale: float, eps: float, groups: int | None, fir: bool) -> None:
        self.weights = network.state_dict()
        self.blocks, self.levels = network.blocks, network.levels
        self.scale, self.eps, self.groups, self.fir = scale, eps, groups, fir

    def conv(self, name: str, h: Tensor, **options: Any) -> Tensor:
        return F.conv2d(h, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **options)

    def linear(self, name: str, h: Tensor) -> Tensor:
        return F.linear(h, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, h: Tensor) -> Tensor:
        groups = self.groups or min(h.shape[1] // 4, 32)
        return F.group_norm(h, groups, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.eps)

    def blur(self, h: Tensor, padding: tuple[int, int], factor: float = 1.0) -> Tensor:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]).double() / 8
        h = F.pad(h, padding * 2)
        h = torch.stack([taps[i] * h[..., i : h.shape[-1] - 3 + i] for i in range(4)]).sum(0)
        return factor * torch.stack([taps[i] * h[..., i : h.shape[-2] - 3 + i, :] for i in range(4)]).sum(0)

    def down(self, h: Tensor) -> Tensor:
        return self.blur(h, (1, 1))[..., ::2, ::2] if self.fir else F.avg_pool2d(h, 2)

    def up(self, h: Tensor) -> Tensor:
        if not self.fir:
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        spread = torch.zeros(*h.shape[:2], 2 * h.shape[2], 2 * h.shape[3], dtype=h.dtype)
        spread[..., ::2, ::2] = h
        return self.blur(spread, (2, 1), 4.0)

    def block(self, name: str, x: Tensor, emb: Tensor, way: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.norm1", x))
        if way:
            h, x = getattr(self, way)(h), getattr(self, way)(x)
        h = self.conv(f"{name}.conv1", h, padding=1) + self.linear(f"{name}.modulation.linear", emb)[:, :, None, None]
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        if f"{name}.skip.weight" in self.weights:
            x = self.conv(f"{name}.skip", x)
        x = (x + h) * self.scale
        if f"{name}.attention.qkv.weight" not in self.weights:
            return x
        normed = self.norm(f"{name}.attention.norm", x).flatten(2).transpose(1, 2)
        q, k, v = self.linear(f"{name}.attention.qkv", normed).chunk(3, dim=2)
        mixed = (q @ k.transpose(1, 2) / math.sqrt(q.shape[2])).softmax(dim=-1) @ v
        return (x + self.linear(f"{name}.attention.project", mixed).transpose(1, 2).reshape(x.shape)) * self.scale

    def __call__(self, x: Tensor, features: Tensor, pyramids: tuple[str, str], convolutions: bool = False) -> Tensor:
        emb = self.linear("conditioning.output", F.silu(self.linear("conditioning.input", features)))
        emb = F.silu(emb)
        hs = [self.conv("input", x, padding=1)]
        pyramid = x
        for i in range(self.levels):
            if i > 0:
                if convolutions:
                    h = self.conv(f"downs.{i - 1}.conv", F.pad(hs[-1], (0, 1, 0, 1)), stride=2)
                else:
                    h = self.block(f"downs.{i - 1}", hs[-1], emb, "down")
                if pyramids[0] == "skip":
                    pyramid = self.down(pyramid)
                    h = self.conv(f"input_pyramid.{i - 1}.conv", pyramid) + h
                if pyramids[0] == "residual":
                    pyramid = self.conv(f"input_pyramid.{i - 1}.down.conv", self.blur(pyramid, (2, 2)), stride=2)
                    h = pyramid = (pyramid + h) * self.scale
                hs.append(h)
            for j in range(self.blocks):
                hs.append(self.block(f"encoder.{i * self.blocks + j}", hs[-1], emb))
        h = self.block("middle.1", self.block("middle.0", hs[-1], emb), emb)
        image: Tensor | float = 0.0
        for n, i in enumerate(reversed(range(self.levels))):
            for j in range(self.blocks + 1):
                h = self.block(f"decoder.{n * (self.blocks + 1) + j}", torch.cat((h, hs.pop()), 1), emb)
            if i > 0:
                if pyramids[1] == "skip":
                    name = f"output_pyramid.{i - 1}"
                    image = self.conv(f"{name}.output", F.silu(self.norm(f"{name}.norm", h)), padding=1) + (
                        self.up(image) if isinstance(image, Tensor) else 0.0
                    )
                h = (
                    self.conv(f"ups.{i - 1}.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)
                    if (convolutions)
                    else self.block(f"ups.{i - 1}", h, emb, "up")
                )
        assert not hs
        out = self.conv("output", F.silu(self.norm("norm", h)), padding=1)
        return out + self.up(image) if isinstance(image, Tensor) else out


@pytest.mark.parametrize("pyramids", [("residual", "none"), ("skip", "skip"), ("none", "skip")])
def test_ncsnpp_follows_its_equations(pyramids: Any) -> None:
    network = noisy(
        ncsnpp((2, 8, 12), 8, (1, 2, 2), 1, (6,), input_pyramid=pyramids[0], output_pyramid=pyramids[1]).double().eval()
    )
    x, c = batch((2, 8, 12))
    phase = 2 * math.pi * c[:, None] * network.state_dict()["conditioning.embedding.frequencies"]
    features = torch.cat((phase.sin(), phase.cos()), dim=1)
    expected = Written(network, 0.5**0.5, 1e-6, None, fir=True)(x, features, pyramids)
    torch.testing.assert_close(network(x, c), expected)


def test_ddpm_follows_its_equations() -> None:
    network = noisy(ddpm((2, 8, 4), 32, (1, 2), 2, (2,)).double().eval())
    x, c = batch((2, 8, 4))
    steps = c + 1.5
    phase = steps[:, None] * 10000 ** (-torch.arange(16).double() / 15)
    features = torch.cat((phase.sin(), phase.cos()), dim=1)
    expected = Written(network, 1.0, 1e-6, 32, fir=False)(x, features, ("none", "none"), convolutions=True)
    # the network has its frequencies in float32
    torch.testing.assert_close(network(x, steps), expected, rtol=1e-5, atol=1e-5)


def test_blocks_with_learned_norms_scale_and_shift() -> None:
    network = noisy(adm((2, 4, 4), 64, (1, 1), 1, (2,), num_classes=3).double().eval())
    block = network.downs[0]
    weights = block.state_dict()
    assert "skip.weight" not in weights
    x, condition = torch.randn(2, 64, 4, 4).double(), torch.randn(2, 256).double()
    h = F.group_norm(x, 16, weights["norm1.weight"], weights["norm1.bias"])
    h = F.conv2d(F.avg_pool2d(F.silu(h), 2), weights["conv1.weight"], weights["conv1.bias"], padding=1)
    h = F.group_norm(h, 16, weights["norm2.weight"], weights["norm2.bias"])
    scale, shift = F.linear(condition, weights["modulation.linear.weight"], weights["modulation.linear.bias"]).split(
        64, 1
    )
    h = F.silu(h * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
    h = F.conv2d(h, weights["conv2.weight"], weights["conv2.bias"], padding=1)
    torch.testing.assert_close(block(x, condition), F.avg_pool2d(x, 2) + h)


# --- the options -----------------------------------------------------------------------------------------------------

BLOCKY = {"resample": "block", "attention": (-1,), "middle_attention": "between"}


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ({}, {"resample": "conv"}),
        ({}, {"resample": "block"}),
        (BLOCKY, {"taps": (1, 3, 3, 1)}),
        ({"resample": "conv"}, {"conv_padding": "both"}),
        (BLOCKY, {"resampled_skip": False}),
        ({}, {"skip_scale": 1.0}),
        ({}, {"middle_skip_scale": 1.0}),
        ({}, {"modulation": "normed_scale_shift"}),
        ({}, {"modulation": "shift"}),
        (BLOCKY, {"input_pyramid": "skip"}),
        (BLOCKY, {"input_pyramid": "residual"}),
        (BLOCKY, {"output_pyramid": "skip"}),
        ({}, {"attention_resolutions": (8,)}),
        (BLOCKY, {"decoder_attention": "last"}),
        (BLOCKY, {"decoder_levels": (0,)}),
        (BLOCKY, {"middle_attention": "level"}),
        (BLOCKY, {"middle_attention": "none"}),
        (BLOCKY, {"heads": 4}),
        (BLOCKY, {"decoder_heads": 4}),
        ({}, {"groups": 4}),
        (BLOCKY, {"attention_groups": 2}),
        (BLOCKY | {"groups": 4}, {"attention_groups": 2}),
        (BLOCKY, {"middle_attention_groups": 2}),
        (BLOCKY, {"middle_attention_groups": 0}),
        (BLOCKY | {"channels": 32, "multipliers": (1, 0.125), "attention": (0,)}, {"joined_groups": "first"}),
        ({}, {"norm_eps": 0.1}),
        ({}, {"stem_channels": 16}),
        ({}, {"condition_width": 16}),
        ({}, {"center_input": True}),
        ({}, {"initialisation": "xavier"}),
        ({"num_classes": 3, "no_label": "zeros"}, {"label_place": "features"}),
        ({"num_classes": 3, "no_label": "zeros"}, {"label_place": "output"}),
        ({"num_classes": 3, "no_label": "zeros"}, {"label_scale": 2.0}),
        ({"num_classes": 3, "no_label": "zeros"}, {"label_bias": True}),
        ({}, {"embedding": GaussianFourierFeatures(64)}),
        ({"embedding": PositionalFeatures(64)}, {"embedding": PositionalFeatures(64, cosine_first=True)}),
        ({"embedding": PositionalFeatures(64)}, {"embedding": PositionalFeatures(64, endpoint=False)}),
    ],
)
def test_every_option_changes_the_output(base: dict[str, Any], changed: dict[str, Any]) -> None:
    x, c = batch(SMALL["shape"])
    labels = torch.tensor([0, 2]) if "num_classes" in base else None
    before, after = (build(**options)(x, c, labels) for options in (base, base | changed))
    assert before.shape == after.shape
    assert (before - after).abs().max() > 1e-3 * before.abs().max()


@pytest.mark.parametrize("shape", [(2, 16), (2, 8, 16), (1, 4, 8, 4)])
@pytest.mark.parametrize("options", [{}, BLOCKY | {"taps": (1, 3, 3, 1), "input_pyramid": "residual"},
                                     BLOCKY | {"input_pyramid": "skip", "output_pyramid": "skip"},
                                     {"resample": "conv", "attention": (0,)}])  # fmt: skip
def test_signals_images_and_volumes(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    network = build(shape=shape, channels=4, **options)
    x, c = batch(shape)
    x.requires_grad_()
    out = network(x, c)
    assert out.shape == x.shape
    out[0].square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad[0] != 0).all())
    assert not x.grad[1].any()
    fresh = UNet(shape, 4, **options)
    assert not fresh(x.detach().float(), c.float()).any()


@pytest.mark.parametrize("options", [{"attention": (-1,)}, BLOCKY | {"taps": (1, 3, 3, 1)}, {"resample": "conv"}])
def test_dimensions_of_a_volume_are_treated_alike(options: dict[str, Any]) -> None:
    """A network with its kernels turned gives the turned output."""
    network = build(shape=(1, 4, 8, 6), channels=4, **options)
    turned = build(shape=(1, 6, 4, 8), channels=4, **options)
    weights = {k: v.movedim(-1, -3) if v.ndim == 5 else v for k, v in network.state_dict().items()}
    x, c = batch((1, 4, 8, 6))
    turned.load_state_dict(weights)
    torch.testing.assert_close(turned(x.movedim(-1, -3), c).movedim(-3, -1), network(x, c))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (1, 28, 30),
            r"3 multipliers halve 2 times.*multiples of 4, and images are 28x30: the nearest are 28x28 and 28x32",
        ),
        ((1, 17), "signals are 17: the nearest are 16 and 20; resize or pad the data, or give fewer multipliers"),
        ((1, 4, 4, 2), "volumes are 4x4x2: the nearest are 4x4x4; resize"),
        ((3,), r"takes signals \(channels, length\), images .*, and the data's shape is \(3,\): MLP"),
        ((1, 2, 2, 2, 2), r"data's shape is \(1, 2, 2, 2, 2\)"),
    ],
)
def test_shapes_that_cannot_be_halved_name_the_nearest(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        UNet(shape, 4, (1, 1, 1), resample="block")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_pyramid": "skip"}, "need resample='block' or 'conv', got resample='pool'"),
        ({"taps": (1, 2, 1)}, r"even number of symmetric values with a sum, got \(1"),
        ({"taps": (1, 2)}, "symmetric"),
        ({"groups": 3}, "8 channels do not divide into 3 groups"),
        ({"attention": (0,), "heads": 3}, "8 channels do not divide into 3 heads"),
        ({"decoder_levels": (2,)}, r"decoder_levels must list levels from 0 \(finest\) to 1, got \(2,\)"),
        ({"augmentations": -1}, "augmentations must be a number"),
        ({"multipliers": (1, -1)}, "multipliers above 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**(SMALL | options))


def test_augmentation_labels() -> None:
    network = noisy(song_ncsnpp((1, 4, 4), 8, (1, 2), 1, augmentations=9).double().eval())
    x, c = batch((1, 4, 4))
    plain = network(x, c)
    torch.testing.assert_close(network(x, c, augment_labels=torch.zeros(2, 9)), plain)
    assert not torch.allclose(network(x, c, augment_labels=torch.ones(2, 9)), plain, rtol=1e-2)
    with pytest.raises(ValueError, match=r"augment_labels must have shape \(2, 9\), got \(2, 3\)"):
        network(x, c, augment_labels=torch.ones(2, 3))
    with pytest.raises(ValueError, match="takes no augment_labels"):
        build()(*batch(SMALL["shape"]), augment_labels=torch.ones(2, 9))


def test_a_missing_label_is_a_class_of_zeros_where_the_family_has_that() -> None:
    network = noisy(song_ncsnpp((1, 4, 4), 8, (1, 2), 1, num_classes=3, label_dropout=0.999999).double())
    x, c = batch((1, 4, 4))
    network.eval()
    without = network(x, c)
    labelled = network(x, c, torch.tensor([0, 2]))
    assert not torch.allclose(labelled, without, rtol=1e-2)
    with torch.no_grad():
        network.conditioning.classes.weight.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(network(x, c, torch.tensor([0, 2])), without)
    assert network.conditioning.unconditional is None


def test_labels_are_dropped_for_zeros_in_training() -> None:
    network = noisy(song_ncsnpp((1, 4, 4), 8, (1, 2), 1, dropout=0, num_classes=3, label_dropout=0.999999).double())
    x, c = batch((1, 4, 4))
    torch.testing.assert_close(network.train()(x, c, torch.tensor([0, 2])), network.eval()(x, c))


def test_learned_variances_have_channels_of_their_own_in_every_image() -> None:
    network = build(**BLOCKY, output_pyramid="skip", learn_variance=True)
    assert network(*batch(SMALL["shape"])).shape == (2, 4, 8, 8)


# --- how it runs -----------------------------------------------------------------------------------------------------

FULL = BLOCKY | {"taps": (1, 3, 3, 1), "input_pyramid": "residual", "output_pyramid": "skip"}


@pytest.mark.parametrize("options", [{"attention": (-1,)}, FULL])
def test_checkpointing_gives_the_same_numbers_and_gradients(options: dict[str, Any]) -> None:
    gradients, outputs = [], []
    x, c = batch(SMALL["shape"])
    for checkpointing in (False, True):
        network = build(dropout=0.3, checkpointing=checkpointing, **options).train()
        torch.manual_seed(0)
        out = network(x, c)
        out.square().sum().backward()
        outputs.append(out.detach())
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    assert torch.equal(*outputs)
    for name, gradient in gradients[0].items():
        assert gradient is not None
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0)


def test_checkpointing_keeps_less() -> None:
    kept = []
    x, c = batch(SMALL["shape"])
    for checkpointing in (False, True):
        network = build(checkpointing=checkpointing, blocks=3, **FULL).train()
        sizes: dict[int, int] = {}

        def count(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(x, c)
        parameters = sum(p.untyped_storage().nbytes() for p in network.parameters())
        kept.append(sum(sizes.values()) - (0 if checkpointing else parameters))
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_derivatives_that_likelihoods_take(checkpointing: bool) -> None:
    network = build(checkpointing=checkpointing, **FULL)
    x, c = batch(SMALL["shape"])
    probe = torch.randn_like(x)
    _, pullback = torch.func.vjp(lambda x: network(x, c), x)  # type: ignore[misc]
    (by_vjp,) = pullback(probe)
    with sdpa_kernel(SDPBackend.MATH):
        tangent = torch.func.jvp(lambda x: network(x, c), (x,), (probe,))[1]
        (many,) = torch.vmap(pullback)(torch.stack((probe, 2 * probe)))
    torch.testing.assert_close((by_vjp * probe).sum(), (tangent * probe).sum())
    torch.testing.assert_close(many, torch.stack((by_vjp, 2 * by_vjp)))
    step = 1e-5
    difference = (network(x + step * probe, c) - network(x - step * probe, c)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-6)
    # In training a transform sees no hooks, so that a checkpointing network computes as others do.
    _, training = torch.func.vjp(lambda x: network.train()(x, c), x)  # type: ignore[misc]
    torch.testing.assert_close(training(probe)[0], by_vjp)


@pytest.mark.parametrize("options", [FULL, {"resample": "conv", "attention": (-1,)}])
def test_channels_last_is_the_same_function(options: dict[str, Any]) -> None:
    network = build(**options)
    x, c = batch(SMALL["shape"])
    expected = network(x, c)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last), c), expected)


def test_bfloat16_autocast_leaves_the_embedding_in_float32() -> None:
    network = build(**FULL, embedding=PositionalFeatures(64)).float()
    x, c = batch(SMALL["shape"])
    x, c = x.float(), 900 + c.float()
    exact, condition = network(x, c), network.conditioning(c)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.conditioning(c), condition)
        out = network(x, c)
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 20 * 2**-8 * exact.abs().max()


def test_networks_on_no_device_have_their_filters_when_they_get_weights() -> None:
    source = build(**FULL)
    with torch.device("meta"):
        empty = UNet(**(SMALL | FULL)).double().eval()
    empty.load_state_dict(source.state_dict(), assign=True)
    x, c = batch(SMALL["shape"])
    assert torch.equal(empty(x, c), source(x, c))


@pytest.mark.slow
def test_a_compiled_network_is_the_same_in_one_graph() -> None:
    network = build(**FULL, checkpointing=True)
    x, c = batch(SMALL["shape"])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, c), network(x, c))
    network.train()
    torch.testing.assert_close(compiled(x, c), network(x, c))


def test_weights_start_uniform_and_last_layers_at_zero() -> None:
    network = ncsnpp((1, 8, 8), 32, (1, 2), 1, (4,))
    convolution = network.encoder[0].conv1
    assert isinstance(convolution, nn.Conv2d)
    bound = math.sqrt(6 / (9 * 32 + 9 * 32))
    assert 0.9 * bound < convolution.weight.abs().max() <= bound
    assert not convolution.bias.any()  # type: ignore[union-attr]
    x, c = batch((1, 8, 8))
    assert not network(x.float(), c.float()).any()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_filters_of_few_bits_compute_in_float32(direction: Any) -> None:
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    module = Resample(2, (1, 3, 3, 1), direction)
    expected = module(x.float()).bfloat16()
    assert torch.equal(module(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), expected)
        assert module(x.float()).dtype == torch.float32
        assert module(x.double()).dtype == torch.float64
