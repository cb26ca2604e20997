"""Features of the values of a run: batches of one size, in memory or in a file, and remembered for data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.data import Discrete
from scoresde.metrics.published import PublishedFeatures
from scoresde.options.errors import ConfigError
from scoresde.runs.published import KnownFeatures, Reference, RunFeatures, save_reference


class Counted(PublishedFeatures):
    """Sums of rows of pixels, which say how often they were asked for."""

    name = "counted"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.width, self.largest = 4, 0.0

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        self.largest = max(self.largest, float(images.max()))
        return images.float().mean((1, 3))

    def __repr__(self) -> str:
        return "counted()"


def features() -> RunFeatures:
    return RunFeatures(Counted(), Discrete(4), (1, 4, 4))


def levels(n: int) -> torch.Tensor:
    return torch.randint(0, 4, (n, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("sizes", [[300], [128, 128, 44], [1, 200, 99], [100, 100, 100]])
def test_batches_do_not_depend_on_how_values_are_divided(sizes: list[int]) -> None:
    own, x = features(), levels(300)
    found = own.table(x.split(sizes), 300)
    assert own.published.batches == [128, 128, 44]
    assert own.published.largest == 255  # the highest of four levels
    assert torch.equal(found, x.float().mul(85).mean((1, 3)))
    assert torch.equal(own.table(x.split(sizes), 250), found[:250])


def test_very_many_features_are_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = features().table([levels(300)], 300)
    monkeypatch.setattr("scoresde.runs.published._IN_MEMORY", 0)
    made: list[str] = []
    whole = np.memmap

    def watched(file: object, *arguments: object, **further: object) -> object:
        made.append(type(file).__name__)
        return whole(file, *arguments, **further)  # type: ignore[call-overload]

    monkeypatch.setattr(np, "memmap", watched)
    assert torch.equal(features().table([levels(300)], 300), expected)
    assert len(made) == 1


def test_data_are_looked_at_once() -> None:
    own, x = features(), Discrete(4).encode(levels(600)).double()
    known = KnownFeatures(own, x)
    assert own.published.batches == [512, 88]
    assert torch.equal(known(x[:512]), own(levels(600)[:512]))
    assert own.published.batches == [512, 88, 512]  # the direct call alone
    known(x[:10])
    assert own.published.batches[-1] == 10


def test_values_are_features_where_there_are_no_others(tmp_path: Path) -> None:
    own = RunFeatures(None, Discrete(4), (1, 4, 4))
    made = save_reference(str(tmp_path / "a.npz"), own, levels(200), progress=False)
    x = Discrete(4).encode(levels(200)).flatten(1).double()
    assert torch.allclose(made.mean, x.mean(0), atol=1e-6)
    found = Reference.load(str(tmp_path / "a.npz"), own)
    assert found.label == f"a-{found.digest}"
    assert found.metrics(x.float())["frechet_to_reference"]["value"] < 1e-6
    other = RunFeatures(None, Discrete(4, -2, 2), (1, 4, 4))  # the same levels on another range
    with pytest.raises(ConfigError, match="is of values by Discrete .*, and the features are values by Discrete"):
        Reference.load(str(tmp_path / "a.npz"), other)
    with pytest.raises(ConfigError, match="needs at least 2 samples, there are 1"):
        save_reference(str(tmp_path / "b.npz"), own, levels(1))


@pytest.mark.parametrize("shape", [(2, 4, 4), (16,)])
def test_values_that_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"features=counted are of images .* with 1 or 3 channels, .* of 4 levels"):
        RunFeatures(Counted(), Discrete(4), shape)
