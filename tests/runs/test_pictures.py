import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import Data
from scoresde.data.transforms import Discrete
from scoresde.plots import panels
from scoresde.runs import pictures
from scoresde.runs.pictures import images
from scoresde.runs.pictures import plane as plane_pictures
from scoresde.score import GaussianMixtureScore
from scoresde.sde import VPSDE, ErasureVPSDE
from scoresde.storage.files import write_bytes

pytestmark = pytest.mark.slow  # trains runs


class Directory:
    """The part of a run that pictures are added to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.listed: dict[str, dict[str, Any]] = {}

    def write_bytes(self, name: str, content: bytes) -> None:
        write_bytes(self.directory / name, content)

    def add_picture(self, file: str, title: str, caption: str, **facts: Any) -> None:
        with Image.open(self.directory / file) as picture:
            assert picture.format == "PNG"
        self.listed[file] = {"title": title, "caption": caption, **facts}


def made(shape: tuple[int, ...], levels: int | None, classes: int = 0) -> Data:
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(90, *shape, generator=rng)
    labels: dict[str, Any] = {}
    if levels is not None:
        values = torch.randint(levels, (90, *shape), generator=rng)
        labels["transform"] = Discrete(levels)
    if classes:
        labels |= {"train_labels": torch.arange(60) % classes, "test_labels": torch.arange(30) % classes}
    return Data("made", values[:60], values[60:], **labels)


@pytest.mark.parametrize(
    ("shape", "levels", "files"),
    [
        ((1,), None, {"samples"}),
        ((2,), None, {"samples"}),
        ((4,), None, {"samples"}),
        ((20,), None, {"samples", "samples-pairs"}),
        ((20,), 2, {"samples"}),
        ((3, 12), None, {"samples", "samples-pairs"}),
        ((2, 3, 3, 3), None, {"samples", "samples-pairs"}),
        ((1, 8, 8), 17, {"samples", "beside-data", "beside-samples"}),
        ((3, 8, 8), 256, {"samples", "beside-data", "beside-samples"}),
        ((4, 8, 8), 256, {"samples", "beside-data", "beside-samples"}),
        ((2, 8, 8), None, {"samples", "beside-data", "beside-samples"}),
    ],
)
def test_every_kind_of_data_has_samples_beside_it(
    tmp_path: Path, shape: tuple[int, ...], levels: int | None, files: set[str]
) -> None:
    run, data = Directory(tmp_path), made(shape, levels)
    pictures.picture_of_samples(run, data, data.train[:20], "samples", "20 samples.")  # type: ignore[arg-type]
    assert set(run.listed) == {f"samples/{file}.png" for file in files}
    assert run.listed["samples/samples.png"]["caption"].startswith("20 samples.")


def test_classes_have_a_column_each(tmp_path: Path) -> None:
    run, data = Directory(tmp_path), made((1, 8, 8), 17, classes=3)
    drawn = data.train[:30]  # of the classes in turn, as samples are
    names = ["cat", "dog", "owl"]
    pictures.picture_of_samples(run, data, drawn, "samples", "", names)  # type: ignore[arg-type]
    scale, gap = panels.scale_of(8, 8)
    for name, source, labels in (("data", data.test, data.test_labels), ("samples", drawn, data.train_labels)):
        assert run.listed[f"samples/beside-{name}.png"]["columns"] == names
        pixels = np.asarray(Image.open(tmp_path / f"samples/beside-{name}.png"))[gap // 2 :: scale * 8 + gap]
        assert labels is not None
        for k in range(3):
            some = source[labels[: len(source)] == k]
            for row, image in zip(pixels, some, strict=False):
                start = k * (scale * 8 + gap) + gap // 2
                shown = row[start : start + 8 * scale : scale, 0]
                assert shown.tolist() == (image[0, 0].double() / 16 * 255).round().tolist()


def test_transparency_is_shown_on_white(tmp_path: Path) -> None:
    data = made((4, 8, 8), 256)
    raw = torch.full((1, 4, 8, 8), 100)
    raw[:, 3, :4] = 0
    pixels = images.as_pixels(data, raw, raw)
    assert pixels.shape == (1, 3, 8, 8)
    assert (pixels[:, :, :4] == 1).all()


def test_the_density_on_the_plane_is_the_models() -> None:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    model = GaussianMixtureScore(torch.tensor([0.25, 0.75]), means, torch.full((2,), 0.04), VPSDE())
    points = model.sample(2000, model.sde.t_min, generator=torch.Generator().manual_seed(0)).double()
    data = Data("mixture", points[:1000].float(), points[1000:].float())
    plane = panels.Plane.around(points.numpy(), cells=48)
    density = plane_pictures._model_density(model, data, plane, points[:1000], points[1000:], None)  # type: ignore[arg-type]
    assert density is not None
    area = (plane.side / plane.cells) ** 2
    assert density.sum() * area == pytest.approx(1, abs=0.03)
    exact = model.log_prob(torch.from_numpy(plane.centres().reshape(-1, 2)).float(), model.sde.t_min).exp()
    expected = plane.smooth(exact.double().numpy().reshape(48, 48))
    assert density == pytest.approx(expected, abs=0.02 * expected.max())


def test_the_drift_of_a_chain_is_that_of_the_exact_reverse_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean, variance = torch.tensor([0.5, -1.0], dtype=torch.float64), 0.09
    sde = ErasureVPSDE(10)
    model = GaussianMixtureScore([1.0], mean[None], torch.tensor([variance]), sde)
    x0 = model.sample(200, 0.0, generator=torch.Generator().manual_seed(0)).double()
    data, run = Data("normal", x0[:100], x0[100:]), Directory(tmp_path)
    times = torch.tensor([1.0, 0.5, 0.1, 0.0])
    states = torch.stack([torch.full((3, 2), float(t)) for t in times])
    drawn: list[Any] = []
    filmstrip = panels.filmstrip

    def watched(*given: Any) -> Any:
        drawn.append(given)
        return filmstrip(*given)

    monkeypatch.setattr(panels, "filmstrip", watched)
    plane_pictures._chain(run, model, data, x0, times, states.double(), 0)  # type: ignore[arg-type]
    assert list(run.listed) == ["samples/chain.png"]
    assert "chain of T = 10 steps" in run.listed["samples/chain.png"]["caption"]
    _, reverse, fields, titles, (low, high), name = drawn[0]
    assert (titles, name) == (["t = 0", "t = 5", "t = 10"], "learned drift\nf_μ(x, t) − x")
    signal = torch.cat((torch.ones(1), 1 - torch.tensor(sde.betas))).double().cumprod(0)
    spread = float(x0.std(0).square().mean().sqrt())
    for column, (step, undone) in enumerate(((0, 1), (5, 5), (10, 10))):
        # From the window, in which every column is at unit variance, to model space.
        root = float(signal[step].sqrt())
        width, centre = (root**2 * spread**2 + 1 - root**2) ** 0.5, root * x0.mean(0)
        points, vectors = map(torch.from_numpy, fields[column])
        x = points * width + centre
        # x_{t-1} given x_t, which are jointly normal.
        before, after, rate = signal[undone - 1], signal[undone], sde.betas[undone - 1]
        both = (1 - rate) ** 0.5 * (before * variance + 1 - before) / (after * variance + 1 - after)
        expected = before.sqrt() * mean + both * (x - after.sqrt() * mean) - x
        assert vectors.numpy() == pytest.approx(expected.numpy(), abs=2e-5)
        # The samples are those of the same time: three at one point, of the cell that has most.
        cell = np.unravel_index(reverse[column].argmax(), reverse[column].shape)
        shown = low + (np.array(cell[::-1]) + 0.5) * (high - low) / len(reverse[column])
        assert shown == pytest.approx(((step / 10 - centre) / width).numpy(), abs=float(high[0] - low[0]) / 96)


def test_a_run_without_data_shows_its_samples_alone(tmp_path: Path) -> None:
    from scoresde.data import DataInfo

    run, data = Directory(tmp_path), made((1, 8, 8), 17)
    pictures.picture_of_samples(run, DataInfo.of(data), data.train[:9], "samples", "")  # type: ignore[arg-type]
    assert set(run.listed) == {"samples/samples.png"}
    assert Image.open(io.BytesIO((tmp_path / "samples/samples.png").read_bytes())).size[0] > 100
