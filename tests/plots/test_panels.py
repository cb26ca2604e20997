import io

import numpy as np
import pytest
from PIL import Image

from scoresde.plots import panels


def test_a_pixel_of_a_mosaic_is_a_whole_number_of_pixels_of_the_page() -> None:
    images = np.random.default_rng(0).uniform(size=(2, 3, 1, 8, 8))
    images[1, 2] = np.nan
    picture = Image.open(io.BytesIO(panels.mosaic(images)))
    scale, gap = panels.scale_of(8, 8)
    assert scale == 10  # 80 CSS pixels, two centimetres
    assert picture.size == (3 * (80 + gap), 2 * (80 + gap))
    assert picture.info["dpi"] == pytest.approx((96, 96), abs=0.1)
    pixels = np.asarray(picture)
    corner = pixels[gap // 2 : gap // 2 + 80, 80 + gap + gap // 2 : 160 + gap + gap // 2]
    assert (corner[..., 3] == 255).all()
    expected = (images[0, 1, 0] * 255).round().repeat(10, 0).repeat(10, 1)
    assert (corner[..., 0] == expected).all()
    assert (pixels[: gap // 2, :, 3] == 0).all()
    assert (pixels[80 + gap :, 2 * (80 + gap) :, 3] == 0).all()  # the place left empty


@pytest.mark.parametrize(("side", "scale"), [(8, 10), (28, 3), (32, 2), (64, 1), (256, 1)])
def test_images_of_any_size_are_shown_at_a_whole_scale(side: int, scale: int) -> None:
    assert panels.scale_of(side, side)[0] == scale


def test_densities_keep_their_mass() -> None:
    points = np.random.default_rng(0).normal(size=(3000, 2)) * 0.3 + [5.0, -2.0]
    plane = panels.Plane.around(points)
    area = (plane.side / plane.cells) ** 2
    assert (points > plane.low).all()
    assert (points < plane.low + plane.side).all()
    counts = plane.count(points)
    assert counts.sum() * area == pytest.approx(1)
    assert plane.smooth(counts).sum() * area == pytest.approx(1, abs=0.01)
    highest = plane.centres()[np.unravel_index(plane.smooth(counts).argmax(), counts.shape)]
    assert highest == pytest.approx([5, -2], abs=0.2)


def test_dark_pictures_have_a_palette_and_the_same_bytes_each_time() -> None:
    rng = np.random.default_rng(0)
    corners = (np.full(2, -2.0), np.full(2, 2.0))
    frames = [rng.uniform(size=(16, 16)) for _ in range(2)]
    field = (rng.uniform(-2, 2, (9, 2)), rng.normal(size=(9, 2)))
    for draw in (
        lambda: panels.densities([("data", frames[0]), ("samples", frames[1])], corners),
        lambda: panels.filmstrip(frames, frames, [field, field], ["t = 0", "t = 1"], corners),
        lambda: panels.filmstrip(frames, frames, [field, field], ["t = 0", "t = 1"], corners, "drift"),
    ):
        content = panels.dark_png(draw())
        picture = Image.open(io.BytesIO(content))
        assert picture.mode == "P"
        assert len(picture.getcolors()) > 20
        assert content == panels.dark_png(draw())


def test_data_stand_above_the_diagonal_and_samples_below() -> None:
    data, samples = np.random.default_rng(0).normal(size=(2, 40, 3))
    axes = panels.pairs(data, samples, ["a", "b", "c"]).axes
    above, below = (axes[place].collections[0].get_offsets() for place in (1, 3))
    assert np.asarray(above) == pytest.approx(data[:, [1, 0]])
    assert np.asarray(below) == pytest.approx(samples[:, [0, 1]])
    assert axes[6].get_xlabel() == "a"
    assert axes[6].get_ylabel() == "c"


def test_series_have_a_row_for_each_of_their_first_channels() -> None:
    data, samples = np.random.default_rng(0).normal(size=(2, 30, 5, 12))
    figure = panels.profiles(data, samples)
    assert len(figure.axes) == 6
    median = figure.axes[3].lines[0].get_ydata()  # samples, second channel
    assert median == pytest.approx(np.median(samples[:, 1], axis=0))


def test_numbers_are_shown_as_histograms() -> None:
    data, samples = np.random.default_rng(0).normal(size=(2, 200))
    x = np.linspace(-3, 3, 50)
    (ax,) = panels.marginals(data, samples, (x, np.exp(-(x**2) / 2))).axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(labels) == ["held-out data", "model density", "samples"]
