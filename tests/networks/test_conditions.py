"""Networks that take a vector, an image and tokens beside labels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.networks import MLP, DiT, EDM2UNet, UNet, adm, ddpm, ddpmpp, ncsnpp, song_ddpmpp, song_ncsnpp
from scoresde.networks.conditions import set_scales

SHAPE = (1, 4, 4)
SIZES: dict[str, int] = {"vector_size": 3, "image_channels": 2, "token_size": 5}
NETWORKS: dict[str, Callable[..., Any]] = {
    "mlp": lambda **o: MLP(SHAPE, width=16, blocks=1, **o),
    "unet": lambda **o: UNet(SHAPE, channels=4, blocks=1, attention=(-1,), **o),
    "dit": lambda **o: DiT(SHAPE, width=16, depth=1, heads=2, **o),
    "edm2": lambda **o: EDM2UNet(SHAPE, channels=8, multipliers=(1, 2), blocks=1, head_channels=8, **o),
    "adm": lambda **o: adm(SHAPE, 8, (1, 2), 1, (2,), head_channels=8, dropout=0.0, **o),
    "ddpm": lambda **o: ddpm(SHAPE, 64, (1, 1), 1, (2,), dropout=0.0, **o),
    "ddpmpp": lambda **o: ddpmpp(SHAPE, 8, (1, 2), 1, (2,), dropout=0.0, **o),
    "ncsnpp": lambda **o: ncsnpp(SHAPE, 8, (1, 2), 1, (2,), dropout=0.0, **o),
    "song_ddpmpp": lambda **o: song_ddpmpp(SHAPE, 8, (1, 2), 1, (2,), dropout=0.0, **o),
    "song_ncsnpp": lambda **o: song_ncsnpp(SHAPE, 8, (1, 2), 1, (2,), dropout=0.0, **o),
}
OPTIONS = {name: ("vector_size",) if name == "mlp" else tuple(SIZES) for name in NETWORKS}
names = pytest.mark.parametrize("name", NETWORKS)


def _moved(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))  # last layers start at zero
    return network.eval()


def _network(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return _moved(NETWORKS[name](**{o: SIZES[o] for o in OPTIONS[name]}, **options))


def _batch(name: str, count: int = 4) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    every = {"vector": draw(3), "image": draw(2, 2, 2), "tokens": draw(6, 5)}
    taken = every if "token_size" in OPTIONS[name] else {"vector": every["vector"]}
    return draw(*SHAPE), draw()[:, None].view(count), taken


def _far(a: Tensor, b: Tensor) -> bool:
    return not bool(torch.isclose(a, b, rtol=1e-4, atol=1e-4).flatten(1).all(1).any())


@names
def test_every_condition_acts_and_can_be_left_out(name: str) -> None:
    network = _network(name, num_classes=3, label_dropout=0.1, condition_dropout=0.1)
    x, c, given = _batch(name)
    given["labels"] = torch.tensor([0, 1, 2, 0])
    assert network.has_unconditional
    assert set(network.condition_shapes) == set(given) - {"labels"}
    with torch.no_grad():
        all_of_them, none = network(x, c, **given), network(x, c)
        for kind in given:
            assert _far(network(x, c, **{k: v for k, v in given.items() if k != kind}), all_of_them)
            assert _far(network(x, c, **{kind: given[kind]}), none)
        dropped = torch.tensor([True, False, False, True])
        mixed = network(x, c, **given, dropped=dropped)
        torch.testing.assert_close(mixed, torch.where(dropped[:, None, None, None], none, all_of_them))
        # One rate: all conditions of a sample are dropped together, and with them the label.
        network.train()
        torch.manual_seed(3)
        x, c, given = x.repeat(64, 1, 1, 1), c.repeat(64), {k: v.repeat_interleave(64, 0) for k, v in given.items()}
        x, c = x[:1].expand_as(x), c[:1].expand_as(c)
        given = {k: v[:1].expand_as(v) for k, v in given.items()}
        found = network(x, c, **given)
        two = (found - all_of_them[:1]).flatten(1).norm(dim=1) < (found - none[:1]).flatten(1).norm(dim=1)
        closest = torch.where(two[:, None, None, None], all_of_them[:1], none[:1])
        # EDM2 normalises its weights in place in training, which moves the last digits.
        torch.testing.assert_close(found, closest, rtol=1e-3, atol=1e-4)
        assert 0.02 < 1 - two.double().mean() < 0.2


@names
def test_conditions_are_standardised_by_the_moments_of_the_data(name: str) -> None:
    network, (x, c, given) = _network(name), _batch(name)
    with torch.no_grad():
        before = network(x, c, **given)
        scales = {"vector": ((1e9, 2.0, 3.0), (2.0, 0.5, 1.0))}
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in scales["vector"])
        moved = {**given, "vector": given["vector"].double() * std + mean}
        if "image" in given:
            mean, std = (torch.tensor(v).view(2, 1, 1) for v in ((1.0, -1.0), (3.0, 2.0)))
            moved["image"] = given["image"] * std + mean
        images = {"image": ((1.0, -1.0), (3.0, 2.0))} if "image" in given else {}
        set_scales(network, {**scales, **images})
        torch.testing.assert_close(network(x, c, **moved), before, rtol=1e-4, atol=1e-4)
        assert network.state_dict()["vector.mean" if name in ("dit", "edm2") else "conditioning.vector.mean"][0] == 1e9
        with pytest.raises(ValueError, match="takes vector of 3 values, and the data have 2"):
            set_scales(network, {"vector": ((0.0, 0.0), (1.0, 1.0))})


def test_tokens_that_do_not_count_change_nothing() -> None:
    for name in ("unet", "dit", "edm2"):
        network, (x, c, given) = _network(name), _batch(name)
        mask = torch.ones(4, 6, dtype=torch.bool)
        mask[:, 4:] = False
        with torch.no_grad():
            few = network(x, c, **{**given, "tokens": given["tokens"][:, :4]})
            given["tokens"][:, 4:] = 1e3
            torch.testing.assert_close(network(x, c, **given, mask=mask), few, rtol=1e-4, atol=1e-4)
            # No token at all is no NaN but the learned one.
            assert network(x, c, **given, mask=torch.zeros_like(mask)).isfinite().all()
            order = torch.randperm(4)
            swapped = {**given, "tokens": given["tokens"][:, :4][:, order]}
            torch.testing.assert_close(network(x, c, **swapped), few, rtol=1e-4, atol=1e-4)


def test_images_of_other_sizes_and_of_signals_and_volumes() -> None:
    network, (x, c, given) = _network("unet"), _batch("unet")
    image = given.pop("image")
    with torch.no_grad():
        found = network(x, c, image=image, **given)
        larger = F.interpolate(image, (4, 4), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, network(x, c, image=larger, **given))
        finer = larger.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(found, network(x, c, image=finer, **given))
        pixels = torch.randint(256, (4, 2, 4, 4), dtype=torch.uint8)
        torch.testing.assert_close(network(x, c, image=pixels, **given), network(x, c, image=pixels.float(), **given))
        for shape, own in (((1, 8), (2,)), ((1, 4, 4, 4), (2, 2, 2))):
            other = _moved(UNet(shape, channels=4, blocks=1, image_channels=1))
            zeros = torch.zeros(2, *shape)
            assert other(zeros, torch.zeros(2), image=torch.ones(2, 1, *own)).shape == zeros.shape


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"vector": torch.zeros(4, 2)}, ValueError, r"vector must have shape \(4, 3\), got \(4, 2\)"),
        (
            {"vector": torch.zeros(4, 3, dtype=torch.int64)},
            TypeError,
            r"vector must be floating point, got torch.int64",
        ),
        ({"image": torch.zeros(4, 1, 4, 4)}, ValueError, r"image must have shape \(4, 2, H, W\)"),
        ({"tokens": torch.zeros(4, 5)}, ValueError, r"tokens must have shape \(4, L, 5\)"),
        ({"mask": torch.ones(4, 6)}, ValueError, r"mask must be boolean \(4, 6\)"),
        ({"vector": None}, ValueError, r"needs vector \(B, 3\): pass vector, or build it with condition_dropout > 0"),
        ({"dropped": torch.ones(4, dtype=torch.bool)}, ValueError, "nothing in the place of conditions"),
    ],
)
def test_conditions_that_do_not_fit(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    network, (x, c, given) = _network("unet"), _batch("unet")
    with pytest.raises(error, match=message) as found:
        network(x, c, **{**given, **wrong})
    assert "\n" not in str(found.value)


@names
def test_a_network_without_conditions_refuses_them(name: str) -> None:
    network, (x, c, given) = NETWORKS[name](), _batch(name)
    options = {"vector": "vector_size", "image": "image_channels", "tokens": "token_size"}
    for kind, value in given.items():
        with pytest.raises(ValueError, match=f"takes no {kind}: leave it out, or build it with {options[kind]}"):
            network(x, c, **{kind: value})
    wrong: list[dict[str, Any]] = [
        {"condition_dropout": 0.1},
        {"condition_dropout": {"vector": 0.1}},
        {"vector_size": 0},
    ]
    for given_options in wrong:
        with pytest.raises(ValueError, match=r"condition_dropout|vector_size"):
            NETWORKS[name](**given_options)
    assert not network.has_unconditional


def test_tokens_need_attention() -> None:
    with pytest.raises(ValueError, match="token_size needs blocks with attention"):
        UNet(SHAPE, channels=4, token_size=3)
    with pytest.raises(ValueError, match="token_size needs blocks with attention.* and head_channels to at most"):
        EDM2UNet(SHAPE, channels=4, multipliers=(1, 2), blocks=1, token_size=3)


def test_rates_of_their_own_are_drawn_apart() -> None:
    network, (x, c, given) = _network("unet", condition_dropout={"image": 0.5, "vector": 0.5}), _batch("unet")
    assert not network.has_unconditional  # tokens are never left out
    network.train()
    many = {k: v[:1].expand(256, *v.shape[1:]) for k, v in given.items()}
    with torch.no_grad():
        found = network(x[:1].expand(256, -1, -1, -1), c[:1].expand(256), **many)
    kinds = found.flatten(1).mul(1e4).round().unique(dim=0)
    assert 4 <= len(kinds) <= 8  # both, either and none, with some that round to two numbers
