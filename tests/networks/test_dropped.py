"""Networks of which single samples are without their conditions."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from scoresde.networks import MLP, DiT, EDM2UNet, UNet
from scoresde.preconditioning import NoisePreconditioning
from scoresde.score import BoundModel, NetworkScore, with_sde
from scoresde.sde import VESDE, VPSDE

SHAPE = (1, 4, 4)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda **o: MLP(SHAPE, width=16, blocks=1, **o),
    "unet": lambda **o: UNet(SHAPE, channels=4, blocks=1, **o),
    "unet of zeros": lambda **o: UNet(SHAPE, channels=4, blocks=1, no_label="zeros", label_place="output", **o),
    "dit": lambda **o: DiT(SHAPE, width=16, depth=1, heads=2, **o),
    "edm2": lambda **o: EDM2UNet(SHAPE, channels=8, multipliers=(1, 2), blocks=1, **o),
}


def _network(make: Callable[..., nn.Module], **options: object) -> nn.Module:
    torch.manual_seed(0)
    network = make(**options).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))  # last layers start at zero
    return network


@pytest.mark.parametrize("make", NETWORKS.values(), ids=list(NETWORKS))
def test_a_sample_without_its_label_is_that_of_no_labels(make: Callable[..., nn.Module]) -> None:
    network = _network(make, num_classes=3, label_dropout=0.1)
    assert network.has_unconditional
    x, c, labels = torch.randn(4, *SHAPE), torch.randn(4), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        given, free = network(x, c, labels), network(x, c)
        assert not torch.isclose(given, free, rtol=1e-3, atol=1e-4).flatten(1).all(1).any()
        mixed = network(x, c, labels, dropped=torch.tensor([True, False, False, True]))
        torch.testing.assert_close(mixed, torch.stack((free[0], given[1], given[2], free[3])))
        torch.testing.assert_close(network(x, c, dropped=torch.ones(4, dtype=torch.bool)), free)
        # In training the samples that are drawn come to those that are given.
        network.train()
        torch.testing.assert_close(network(x, c, labels, dropped=torch.ones(4, dtype=torch.bool)), network(x, c))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=list(NETWORKS))
def test_dropped_is_checked(make: Callable[..., nn.Module]) -> None:
    network = make(num_classes=3, label_dropout=0.1)
    x, c, labels = torch.randn(2, *SHAPE), torch.randn(2), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"dropped must be a boolean tensor.*got torch.int64"):
        network(x, c, labels, dropped=labels)
    with pytest.raises(ValueError, match=r"dropped must have shape \(2,\)"):
        network(x, c, labels, dropped=torch.ones(3, dtype=torch.bool))
    never = make(num_classes=3)
    assert not never.has_unconditional
    if make is not NETWORKS["unet of zeros"]:
        with pytest.raises(ValueError, match="nothing in the place of conditions"):
            never(x, c, labels, dropped=torch.ones(2, dtype=torch.bool))


def test_a_model_says_whether_it_has_an_unconditional_branch() -> None:
    for rate in (0.0, 0.1):
        network = MLP((2,), width=8, num_classes=3, label_dropout=rate)
        model = NetworkScore(network, VPSDE(), NoisePreconditioning())
        around = (model, BoundModel(model, {}), with_sde(model, VESDE()))
        assert [m.has_unconditional for m in around] == [rate > 0] * 3
        taken = "labels, dropped" if rate else "labels"
        with pytest.raises(ValueError, match=f"of the network, which takes {taken}$"):
            model.conditions({"sed": 1}, 2, torch.device("cpu"))
    assert not NetworkScore(nn.Identity(), VPSDE(), NoisePreconditioning()).has_unconditional
