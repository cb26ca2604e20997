from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.networks import PositionalFeatures, UNet
from scoresde.networks.attention import SelfAttention
from scoresde.networks.blocks import BlockOptions, ResidualBlock
from scoresde.networks.layers import group_norm


def small(**kwargs: object) -> UNet:
    settings: dict[str, object] = {"shape": (1, 4, 4), "channels": 8, "blocks": 1} | kwargs
    return UNet(**settings)  # type: ignore[arg-type]


def perturbed(network: UNet, seed: int = 0) -> UNet:
    """The network with noise on the weights that start at zero, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def batch(shape: tuple[int, ...], n: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=dtype)
    return x, torch.linspace(-2, 1.5, n, dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((1, 8, 8), {"multipliers": (1, 2, 2)}),
        ((3, 8, 8), {"attention": (0, 1)}),
        ((2, 4, 12), {"attention": (-1,), "blocks": 2}),
        ((1, 5, 7), {"multipliers": (1,)}),
        ((1, 4, 4), {"channels": 7, "multipliers": (1, 3), "attention": (-1,), "head_channels": 5}),
        ((1, 4, 4), {"channels": 1}),
    ],
)
def test_shape_and_zero_at_start(shape: tuple[int, ...], settings: dict[str, object]) -> None:
    network = small(shape=list(shape), **settings)
    x, c_noise = batch(shape)
    assert torch.equal(network(x, c_noise), torch.zeros_like(x))
    out = perturbed(network)(x, c_noise)
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.any()
    assert network.shape == shape
    assert network.num_classes is None


def test_every_encoder_block_feeds_the_decoder() -> None:
    network = perturbed(small(multipliers=(1, 2, 2), blocks=2, shape=(1, 8, 8)))
    x, c_noise = batch((1, 8, 8))
    before = network(x, c_noise)
    for block in network.decoder:
        assert isinstance(block, ResidualBlock)
        assert isinstance(block.skip, nn.Conv2d)
        # the skip comes last in the concatenation; without its weights the output must change
        weight = block.skip.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, -block.conv1.out_channels :] = 0
        assert not torch.allclose(network(x, c_noise), before, rtol=1e-3)
        with torch.no_grad():
            weight.copy_(kept)


def test_gradient_reaches_every_parameter() -> None:
    network = perturbed(small(num_classes=3, label_dropout=0.5, dropout=0.1, attention=(0, 1)))
    x, c_noise = batch((1, 4, 4), n=16)
    torch.manual_seed(0)
    network(x, c_noise, torch.arange(16) % 3).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_first_step_trains_the_output_alone() -> None:
    network = small()
    x, c_noise = batch((1, 4, 4))
    (network(x, c_noise) - x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == name.startswith("output"), name


def test_output_depends_on_noise_level_label_and_state() -> None:
    network = perturbed(small(num_classes=2))
    x = batch((1, 4, 4), n=1)[0].repeat(4, 1, 1, 1)
    x[3] += 1.0
    out = network(x, torch.tensor([0.0, 0.0, 0.5, 0.0]), torch.tensor([0, 1, 0, 0]))
    assert all(not torch.allclose(out[0], out[i], rtol=1e-3) for i in (1, 2, 3))


def test_samples_do_not_see_each_other() -> None:
    network = perturbed(small(attention=(-1,))).double().eval()
    x, c_noise = batch((1, 4, 4), dtype=torch.float64)
    together = network(x, c_noise)
    alone = torch.cat([network(x[i : i + 1], c_noise[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone)


def test_height_and_width_are_not_swapped() -> None:
    network = perturbed(small(shape=(1, 4, 8), attention=(0, 1))).double()
    mirrored = perturbed(small(shape=(1, 8, 4), attention=(0, 1))).double()
    mirrored.load_state_dict(network.state_dict())
    with torch.no_grad():
        for module in mirrored.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.mT.clone())
    x, c_noise = batch((1, 4, 8), dtype=torch.float64)
    torch.testing.assert_close(mirrored(x.mT, c_noise).mT, network(x, c_noise))


def test_block_follows_the_formula() -> None:
    torch.manual_seed(0)
    options = BlockOptions(2, 5, 0.0, "scale_shift", 0.5**0.5, True, (1, 1), None, None, 1e-5)
    block = ResidualBlock(4, 8, options).double()
    x, condition = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    silu = nn.functional.silu
    torch.testing.assert_close(block(x, condition), block.skip(x) / 2**0.5)
    nn.init.normal_(block.conv2.weight)
    h = block.conv1(silu(nn.functional.group_norm(x, 1)))
    scale, shift = block.modulation.linear(condition)[:, :, None, None].split(8, dim=1)
    h = block.conv2(silu(nn.functional.group_norm(h, 2) * (1 + scale) + shift))
    torch.testing.assert_close(block(x, condition), (block.skip(x) + h) / 2**0.5)


def test_levels_are_joined_by_averaging_and_nearest_neighbours() -> None:
    network = perturbed(small(shape=(1, 8, 8)))
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, args: tuple[Tensor, ...], given: dict[str, Any], out: Tensor) -> None:
        joined = given.get("joined")
        inputs[module], outputs[module] = torch.cat((args[0], *([] if joined is None else [joined])), dim=1), out

    blocks = [*network.encoder, *network.middle, *network.decoder]
    for block in blocks:
        block.register_forward_hook(record, with_kwargs=True)
    network(*batch((1, 8, 8)))
    fine, coarse, _, _, up_coarse, up_fine = blocks
    patches = outputs[fine].reshape(3, 8, 4, 2, 4, 2)
    torch.testing.assert_close(inputs[coarse], patches.mean(dim=(3, 5)))
    repeated = outputs[up_coarse].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(inputs[up_fine], torch.cat((repeated, outputs[fine]), dim=1))


def test_attention_follows_the_formula() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, heads=2, skip_scale=0.5**0.5).double()
    nn.init.normal_(attention.project.weight)
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (tokens @ w.T + b for w, b in zip(*(p.chunk(3) for p in attention.qkv.parameters()), strict=True))
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / 4**0.5).softmax(dim=-1)
        heads.append(weights @ v[..., head])
    mixed = attention.project(torch.cat(heads, dim=-1)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), (x + mixed) / 2**0.5)


@pytest.mark.parametrize("attention", [(), (0, 1)])
def test_channels_last_is_the_same_function(attention: tuple[int, ...]) -> None:
    network = perturbed(small(shape=(3, 8, 8), attention=attention)).double()
    x, c_noise = batch((3, 8, 8), dtype=torch.float64)
    expected = network(x, c_noise)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    out = network(x.to(memory_format=torch.channels_last), c_noise)
    torch.testing.assert_close(out, expected)
    out.sum().backward()


@pytest.mark.parametrize("attention", [(), (-1,)])
def test_jvp_matches_finite_differences(attention: tuple[int, ...]) -> None:
    network = perturbed(small(attention=attention)).double()
    x, c_noise = batch((1, 4, 4), dtype=torch.float64)
    dx, dc = torch.randn_like(x), torch.randn_like(c_noise)
    with sdpa_kernel(SDPBackend.MATH):
        tangent = torch.func.jvp(network, (x, c_noise), (dx, dc))[1]
        step = 1e-5
        difference = network(x + step * dx, c_noise + step * dc) - network(x - step * dx, c_noise - step * dc)
    # central differences: error O(step^2) and rounding 1e-16 / step
    torch.testing.assert_close(tangent, difference / (2 * step), rtol=1e-6, atol=1e-7)


def test_forward_and_reverse_jacobians_agree_under_vmap() -> None:
    network = perturbed(small(attention=(-1,))).double()
    x, c_noise = batch((1, 4, 4), n=1, dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        forward = torch.func.jacfwd(network)(x, c_noise)
        torch.testing.assert_close(forward, torch.func.jacrev(network)(x, c_noise))


def test_vmap_over_noise_levels() -> None:
    network = perturbed(small(attention=(-1,))).double()
    x, _ = batch((1, 4, 4), dtype=torch.float64)
    levels = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        out = torch.vmap(lambda c: network(x, c.expand(len(x))))(levels)
    for c, row in zip(levels, out, strict=True):
        torch.testing.assert_close(row, network(x, c.expand(len(x))))


def test_bfloat16_autocast() -> None:
    network = perturbed(small(num_classes=2, attention=(-1,), dropout=0.1)).eval()
    x, c_noise = batch((1, 4, 4))
    labels = torch.tensor([0, 1, 1])
    exact = network(x, c_noise, labels)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, c_noise, labels).float()
        network.train()(x, c_noise, labels).sum().backward()
    # bfloat16 keeps 8 bits: 2^-8 of the size of the output, some ten layers deep
    assert (out - exact).abs().max() < 10 * 2**-8 * exact.abs().max()


def test_same_seed_same_network() -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(small().state_dict())
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])
    assert not torch.equal(networks[0]["input.weight"], networks[2]["input.weight"])


def test_state_dict_round_trip() -> None:
    source, target = perturbed(small(attention=(0,))), small(attention=(0,))
    target.load_state_dict(source.state_dict())
    x, c_noise = batch((1, 4, 4))
    assert torch.equal(source(x, c_noise), target(x, c_noise))


def test_dropout_acts_in_training_only() -> None:
    network = perturbed(small(dropout=0.5))
    x, c_noise = batch((1, 4, 4))
    assert not torch.equal(network(x, c_noise), network(x, c_noise))
    network.eval()
    assert torch.equal(network(x, c_noise), network(x, c_noise))


def test_a_chosen_embedding_is_used() -> None:
    embedding = PositionalFeatures(12)
    assert small(embedding=embedding).conditioning.embedding is embedding


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 30, 32, 37, 96, 256])
def test_group_count_fits_any_number_of_channels(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert groups <= 32
    assert groups == 1 or channels // groups >= 4


def test_group_counts_of_common_widths() -> None:
    assert [group_norm(channels).num_groups for channels in (8, 32, 64, 128, 192, 256)] == [
        2,
        8,
        16,
        32,
        32,
        32,
    ]


def test_heads_have_at_least_the_asked_channels() -> None:
    network = small(channels=24, multipliers=(1, 2), attention=(0, 1), head_channels=12)
    heads = [module.heads for module in network.modules() if isinstance(module, SelfAttention)]
    # encoder fine and coarse, the two of the middle, decoder coarse and fine
    assert heads == [2, 4, 4, 4, 4, 2]


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((1, 28, 28), 4),
        ((3, 27, 31), 3),
        ((1, 7, 5), 3),
        ((1, 1, 9), 2),
        ((2, 6, 1), 3),
        ((1, 2, 2), 2),
        ((1, 1, 1), 1),
    ],
)
def test_images_of_any_size(shape: tuple[int, ...], levels: int) -> None:
    network = perturbed(small(shape=shape, multipliers=(1,) * levels, attention=(-1,)))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = network(x, torch.zeros(2))
    assert out.shape == x.shape
    # Every value of the output knows of its own pixel, those of the last row and column too.
    (gradient,) = torch.autograd.grad(out[:, :, -1, -1].sum(), x)
    assert bool((gradient[:, :, -1, -1] != 0).all())


def test_a_single_pixel_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match=r"images of 28x28 are a single pixel after 5 halvings: give at most 6 mult"):
        small(shape=(1, 28, 28), multipliers=(1,) * 7)
    with pytest.raises(ValueError, match=r"images of 1x1 are a single pixel after 0 halvings: give at most 1 mult"):
        small(shape=(1, 1, 1))


def test_images_that_fit_and_their_default_levels() -> None:
    fitting = [(1, 8, 8), (3, 27, 31), (1, 1, 9)]
    assert [UNet.fits(shape) for shape in fitting] == [True] * 3
    assert [UNet.fits(shape) for shape in [(2,), (2, 9), (3, 1, 1), (28, 28), ()]] == [False] * 5
    assert [UNet.fits(shape) for shape in [(2, 16), (1, 4, 4, 4), (64, 256)]] == [True] * 3
    levels = {size: len(UNet.default_multipliers((1, 8, size))) for size in (2, 8, 28, 64, 65, 128, 256, 512)}
    assert levels == {2: 2, 8: 2, 28: 2, 64: 2, 65: 3, 128: 3, 256: 4, 512: 5}
    assert [len(UNet.default_multipliers((1, size))) for size in (16, 128, 129, 1024)] == [2, 2, 3, 5]
    assert [len(UNet.default_multipliers((1, 4, 4, size))) for size in (4, 16, 17, 64)] == [2, 2, 3, 4]
    for shape in fitting:
        small(shape=shape, multipliers=UNet.default_multipliers(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"shape": (4,)},
            r"signals \(channels, length\).*shape is \(4,\): MLP .network=mlp. takes any",
        ),
        ({"shape": (1, 0, 4)}, r"is \(1, 0, 4\)"),
        ({"multipliers": ()}, "at least one level"),
        ({"multipliers": (1, 0)}, r"multipliers above 0, got 8, 1, 32 and \(1, 0\)"),
        ({"channels": 0}, "at least 1 and .*, got 0"),
        ({"blocks": 0}, "at least 1 and .*, got 8, 0"),
        ({"attention": (2,)}, r"levels from 0 \(finest\) to 1, got \(2,\)"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_wrong_inputs() -> None:
    network = small(num_classes=2)
    with pytest.raises(ValueError, match=r"\(B, 1, 4, 4\).*got \(3, 1, 4, 8\)"):
        network(*batch((1, 4, 8)))
    with pytest.raises(ValueError, match=r"c_noise must have shape \(3,\)"):
        network(torch.zeros(3, 1, 4, 4), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"needs labels in \[0, 2\)"):
        network(*batch((1, 4, 4)))


@pytest.mark.parametrize("modulation", ["scale_shift", "normed_scale_shift", "shift"])
def test_normalisations_keep_their_digits_under_bfloat16(modulation: Any) -> None:
    """Statistics of features with an offset of many times their spread, which sums in bfloat16 would lose."""
    network = UNet((1, 16, 16), channels=16, multipliers=(1, 2), attention=(-1,), modulation=modulation).eval()
    errors = []

    def compare(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(norm, nn.GroupNorm)
        with torch.autocast("cpu", enabled=False):
            weight, bias = (None if v is None else v.float() for v in (norm.weight, norm.bias))
            exact = F.group_norm(inputs[0].float(), norm.num_groups, weight, bias, norm.eps)
        errors.append(float((output.float() - exact).abs().max() / exact.abs().max()))

    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    for norm in norms:
        norm.register_forward_hook(compare)
    x = 30 + torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(x, torch.zeros(4))
    assert len(errors) == len(norms)
    assert max(errors) < 2**-7  # the last digit of the output
