"""The published networks against the numbers of parameters of their authors' code."""

from collections.abc import Callable

import pytest
import torch

from scoresde.networks import (
    PositionalFeatures,
    UNet,
    adm,
    ddpm,
    ddpmpp,
    ncsnpp,
    song_ddpmpp,
    song_ncsnpp,
)

CIFAR = (3, 32, 32)
PYRAMIDS = {"input_pyramid": "skip", "output_pyramid": "skip"}


@pytest.mark.parametrize(
    ("build", "frequencies", "parameters"),
    [
        (lambda: ncsnpp(CIFAR), 128, 62_758_915),
        (lambda: ncsnpp(CIFAR, embedding=PositionalFeatures(128)), 0, 62_693_251),
        (lambda: ncsnpp(CIFAR, blocks=8), 128, 107_587_075),
        (lambda: ddpmpp(CIFAR), 0, 61_804_419),
        (lambda: ddpmpp(CIFAR, blocks=8), 0, 106_632_579),
        (lambda: ddpm(CIFAR), 0, 35_218_947),
        (lambda: ncsnpp((3, 256, 256), 128, (1, 1, 2, 2, 2, 2, 2), 2, **PYRAMIDS), 128, 65_574_549),
        (lambda: ncsnpp((3, 1024, 1024), 16, (1, 2, 4, 8, 16, 32, 32, 32), 1, **PYRAMIDS), 16, 105_785_896),
        # Those of EDM count what is trained only.
        (lambda: song_ddpmpp(CIFAR, augmentations=9), 0, 55_733_891),
        (lambda: song_ddpmpp(CIFAR, augmentations=9, num_classes=10), 0, 55_735_299),
        (lambda: song_ncsnpp(CIFAR, augmentations=9), 0, 56_397_827),
        (lambda: song_ncsnpp(CIFAR, augmentations=9, num_classes=10), 0, 56_400_643),
        (lambda: song_ddpmpp(CIFAR, multipliers=(1, 2, 2, 2)), 0, 61_804_419),
        (lambda: song_ncsnpp(CIFAR, multipliers=(1, 2, 2, 2)), 0, 62_758_787),
        (lambda: adm((3, 64, 64), num_classes=1000), 0, 295_899_267),
    ],
)
def test_sizes_of_published_networks(build: Callable[[], UNet], frequencies: int, parameters: int) -> None:
    with torch.device("meta"):
        network = build()
    assert sum(p.numel() for p in network.parameters()) + frequencies == parameters


@pytest.mark.parametrize("build", [ncsnpp, ddpmpp, ddpm, song_ddpmpp, song_ncsnpp, adm])
@pytest.mark.parametrize("shape", [(1, 16), (2, 8, 4), (1, 4, 4, 4)])
def test_every_published_network_takes_signals_images_and_volumes(
    build: Callable[..., UNet], shape: tuple[int, ...]
) -> None:
    network = build(shape, channels=32, multipliers=(1, 2), blocks=1, attention_resolutions=(2,), num_classes=3)
    out = network(torch.ones(2, *shape), torch.zeros(2), torch.tensor([0, 2]))
    assert out.shape == (2, *shape)
    assert not out.any()
