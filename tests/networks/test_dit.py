import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.networks import DiT, PositionalFeatures
from scoresde.networks.dit import position_embedding


def small(**kwargs: object) -> DiT:
    settings: dict[str, object] = {"shape": (2, 4, 6), "patch": 2, "width": 16, "depth": 2, "heads": 2} | kwargs
    torch.manual_seed(0)
    network = DiT(**settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return network.eval()


def batch(shape: tuple[int, ...] = (2, 4, 6), n: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64), torch.linspace(-1, 1, n).double()


def written(network: DiT, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
    """The network from the paper's figure 3, patch by patch and head by head."""
    w = network.state_dict()

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    c = layer("noise.2", F.silu(layer("noise.0", network.embedding(c_noise)))) + w["classes.weight"][labels]
    c = F.silu(c)[:, None]
    (height, width), p, dim = x.shape[2:], network.patch, w["input.weight"].shape[0]
    tokens = []
    for i in range(height // p):
        for j in range(width // p):
            patch = x[:, :, p * i : p * i + p, p * j : p * j + p].flatten(1)
            rates = [10000 ** (-4 * k / dim) for k in range(dim // 4)]
            place = [f(r * at) for at in (j, i) for f in (math.sin, math.cos) for r in rates]
            tokens.append(layer("input", patch) + torch.tensor(place, dtype=torch.float64))
    h = torch.stack(tokens, 1)
    for b in range(len(network.blocks)):
        name = f"blocks.{b}"
        shift, scale, gate, shift2, scale2, gate2 = layer(f"{name}.modulation", c).chunk(6, 2)
        q, k, v = layer(f"{name}.qkv", normed(h) * (1 + scale) + shift).chunk(3, 2)
        size = dim // 2
        heads = []
        for s in (slice(0, size), slice(size, dim)):
            heads.append(((q[..., s] @ k[..., s].mT) / math.sqrt(size)).softmax(-1) @ v[..., s])
        h = h + gate * layer(f"{name}.project", torch.cat(heads, 2))
        hidden = F.gelu(layer(f"{name}.first", normed(h) * (1 + scale2) + shift2), approximate="tanh")
        h = h + gate2 * layer(f"{name}.second", hidden)
    shift, scale = layer("modulation", c).chunk(2, 2)
    out = layer("output", normed(h) * (1 + scale) + shift)
    made = torch.zeros(len(x), out.shape[2] // p**2, height, width, dtype=torch.float64)
    for n, token in enumerate(out.unbind(1)):
        i, j = divmod(n, width // p)
        made[:, :, p * i : p * i + p, p * j : p * j + p] = token.reshape(len(x), p, p, -1).permute(0, 3, 1, 2)
    return made


@pytest.mark.parametrize("learn_variance", [False, True])
def test_network_follows_the_paper(learn_variance: bool) -> None:
    network = small(num_classes=3, learn_variance=learn_variance).double()
    network.positions = position_embedding(2, 3, 16).double()
    x, c_noise = batch()
    labels = torch.tensor([2, 0, 1])
    expected = written(network, x, c_noise, labels)
    assert expected.abs().max() > 0.1
    # The places are rounded to float32.
    torch.testing.assert_close(network(x, c_noise, labels), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "millions"), [(DiT.small, 33), (DiT.base, 130), (DiT.large, 458), (DiT.extra_large, 675)], ids="SBLX"
)
def test_published_sizes_have_as_many_parameters(make: Callable[..., DiT], millions: int) -> None:
    # Peebles & Xie 2023, table 4, of patches of 2 on latents; labels are dropped, and variances learned.
    with torch.device("meta"):
        network = make((4, 32, 32), num_classes=1000, label_dropout=0.1, learn_variance=True)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_a_new_network_returns_zero_and_its_first_step_trains_the_output_alone() -> None:
    network = DiT((1, 4, 4), width=16, depth=1, heads=2)
    x, c_noise = torch.randn(2, 1, 4, 4), torch.zeros(2)
    out = network(x, c_noise)
    assert torch.equal(out, torch.zeros_like(x))
    (out - x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == name.startswith("output"), name


def test_gradient_reaches_every_parameter() -> None:
    network = small(num_classes=3, label_dropout=0.5, dropout=0.1).train().double()
    x, c_noise = batch(n=16)
    network(x, c_noise, torch.arange(16) % 3).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("qkv.bias"):  # of keys it cancels in the softmax
            continue
        assert parameter.grad.abs().max() > 0, name


def test_labels_that_are_dropped_have_a_vector_of_their_own() -> None:
    network = small(num_classes=3, label_dropout=0.3).double()
    x, c_noise = batch()
    assert network.classes is not None
    assert network.classes.weight.shape == (4, 16)
    outputs = [network(x, c_noise, torch.full((3,), y)) for y in range(3)] + [network(x, c_noise)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\)"):
        network(x, c_noise, torch.tensor([0, 3, 1]))
    with pytest.raises(ValueError, match="needs labels in"):
        small(num_classes=3)(x.float(), c_noise.float())
    with pytest.raises(ValueError, match="takes no labels"):
        small()(x.float(), c_noise.float(), torch.tensor([0, 1, 2]))


def test_samples_do_not_see_each_other_and_patches_do() -> None:
    network = small().double()
    x, c_noise = batch()
    together = network(x, c_noise)
    alone = torch.cat([network(x[i : i + 1], c_noise[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    moved = x.clone()
    moved[:, :, 0, 0] += 1
    assert ((network(moved, c_noise) - together).abs().amax((0, 1)) > 1e-9).all()


def test_forward_and_backward_derivatives_agree() -> None:
    network = small().double()
    x, c_noise = batch(n=1)
    v, w = x**2, x.flip(-1)
    with sdpa_kernel(SDPBackend.MATH):
        forward = torch.func.jvp(lambda y: network(y, c_noise), (x,), (v,))[1]
    pull = torch.func.vjp(lambda y: network(y, c_noise), x)[1]
    torch.testing.assert_close((forward * w).sum(), (pull(w)[0] * v).sum())


def test_another_size_has_the_same_weights_and_its_own_places() -> None:
    network = small(num_classes=2).double()
    other = network.for_shape((2, 8, 4))
    assert other.shape == (2, 8, 4)
    assert network.shape == (2, 4, 6)
    assert all(a is b for a, b in zip(network.parameters(), other.parameters(), strict=True))
    torch.testing.assert_close(other.positions, position_embedding(4, 2, 16).double())
    x, c_noise = batch((2, 8, 4))
    labels = torch.tensor([0, 1, 1])
    fresh = small(shape=(2, 8, 4), num_classes=2).double()
    fresh.load_state_dict(network.state_dict())  # no tensor of the state depends on the size
    torch.testing.assert_close(other(x, c_noise, labels), fresh(x, c_noise, labels))
    with pytest.raises(ValueError, match="3 channels"):
        network.for_shape((3, 8, 4))
    with pytest.raises(ValueError, match="6x4 and 8x6 are the nearest"):
        network.for_shape((2, 7, 5))


def test_what_does_not_fit_is_refused() -> None:
    for settings, message in (
        ({"shape": (1, 30, 33), "patch": 4}, "28x32 and 32x36 are the nearest"),
        ({"shape": (5,)}, "MLP"),
        ({"width": 18}, "multiple of 4"),
        ({"heads": 3}, "heads=3"),
        ({"depth": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"label_dropout": 0.1}, "needs labels to drop"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**settings)
    with pytest.raises(TypeError, match="attribute dim"):
        small(embedding=nn.Identity())
    assert isinstance(small().embedding, PositionalFeatures)
