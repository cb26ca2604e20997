import pytest
import torch
from torch import Tensor

from scoresde.networks import MLP, PositionalFeatures


def small(**kwargs: object) -> MLP:
    settings: dict[str, object] = {"shape": (3,), "width": 16, "blocks": 2} | kwargs
    return MLP(**settings)  # type: ignore[arg-type]


def perturbed(network: MLP, seed: int = 0) -> MLP:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.output.weight.add_(torch.randn(network.output.weight.shape, generator=generator))
    return network


def batch(shape: tuple[int, ...], n: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=dtype)
    return x, torch.linspace(-2, 1.5, n, dtype=dtype)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4), (3, 2, 5), (1,)])
def test_shape_and_zero_at_start(shape: tuple[int, ...]) -> None:
    network = small(shape=list(shape))
    x, c_noise = batch(shape)
    assert torch.equal(network(x, c_noise), torch.zeros_like(x))
    assert perturbed(network)(x, c_noise).shape == x.shape
    assert network.shape == shape
    assert network.num_classes is None
    assert network(x[:0], c_noise[:0]).shape == (0, *shape)


def test_gradient_reaches_every_parameter() -> None:
    network = perturbed(small(num_classes=3, label_dropout=0.5, dropout=0.1))
    x, c_noise = batch((3,), n=64)
    torch.manual_seed(0)
    network(x, c_noise, torch.arange(64) % 3).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_output_depends_on_noise_level_label_and_state() -> None:
    network = perturbed(small(num_classes=2))
    x = torch.ones(4, 3)
    x[3] = 2.0
    out = network(x, torch.tensor([0.0, 0.0, 0.5, 0.0]), torch.tensor([0, 1, 0, 0]))
    assert all(not torch.allclose(out[0], out[i], rtol=1e-3) for i in (1, 2, 3))


def test_samples_do_not_see_each_other() -> None:
    network = perturbed(small()).double()
    x, c_noise = batch((3,), dtype=torch.float64)
    together = network(x, c_noise)
    alone = torch.cat([network(x[i : i + 1], c_noise[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone)


def test_same_seed_same_network() -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(small().state_dict())
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])
    assert not torch.equal(networks[0]["input.weight"], networks[2]["input.weight"])


def test_state_dict_round_trip() -> None:
    source, target = perturbed(small(num_classes=2)), small(num_classes=2)
    target.load_state_dict(source.state_dict())
    x, c_noise = batch((3,))
    labels = torch.zeros(5, dtype=torch.int64)
    assert torch.equal(source(x, c_noise, labels), target(x, c_noise, labels))


def test_jvp_matches_finite_differences() -> None:
    network = perturbed(small()).double()
    x, c_noise = batch((3,), dtype=torch.float64)
    dx, dc = torch.randn_like(x), torch.randn_like(c_noise)
    tangent = torch.func.jvp(network, (x, c_noise), (dx, dc))[1]
    step = 1e-5
    difference = network(x + step * dx, c_noise + step * dc) - network(x - step * dx, c_noise - step * dc)
    # central differences: error O(step^2) and rounding 1e-16 / step
    torch.testing.assert_close(tangent, difference / (2 * step), rtol=1e-6, atol=1e-7)


def test_vmap_over_jacobian_columns() -> None:
    network = perturbed(small()).double()
    x, c_noise = batch((3,), n=1, dtype=torch.float64)
    forward = torch.func.jacfwd(network)(x, c_noise)
    torch.testing.assert_close(forward, torch.func.jacrev(network)(x, c_noise))


def test_dropout_acts_in_training_only() -> None:
    network = perturbed(small(dropout=0.5))
    x, c_noise = batch((3,))
    assert not torch.equal(network(x, c_noise), network(x, c_noise))
    network.eval()
    assert torch.equal(network(x, c_noise), network(x, c_noise))


def test_bfloat16_autocast() -> None:
    network = perturbed(small(num_classes=2))
    x, c_noise = batch((3,))
    labels = torch.zeros(5, dtype=torch.int64)
    exact = network(x, c_noise, labels)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, c_noise, labels).float()
    # bfloat16 keeps 8 bits: 2^-8 of the size of the output, a few roundings deep
    assert (out - exact).abs().max() < 10 * 2**-8 * exact.abs().max()


def test_a_chosen_embedding_is_used() -> None:
    embedding = PositionalFeatures(12)
    assert small(embedding=embedding).conditioning.embedding is embedding


def test_wrong_inputs() -> None:
    network = small()
    with pytest.raises(ValueError, match=r"\(B, 3\).*got \(5, 2\)"):
        network(*batch((2,)))
    with pytest.raises(ValueError, match=r"\(B, 3\).*got \(5, 3, 1\)"):
        network(*batch((3, 1)))
    with pytest.raises(ValueError, match=r"c_noise must have shape \(5,\)"):
        network(torch.zeros(5, 3), torch.tensor(0.0))
    with pytest.raises(ValueError, match="takes no labels"):
        network(torch.zeros(5, 3), torch.zeros(5), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": ()}, r"shape must be .*got \(\)"),
        ({"shape": (2, 0)}, r"shape must be .*got \(2, 0\)"),
        ({"width": 0}, "at least 1, got 0 and 2"),
        ({"blocks": 0}, "at least 1, got 16 and 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_differentiates_twice() -> None:
    network = perturbed(small()).double()
    x, c_noise = batch((3,), dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, c_noise).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), network.input.weight)
    assert second.abs().max() > 0
