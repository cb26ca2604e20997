import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Polygon, Rectangle
from matplotlib.quiver import Quiver, QuiverKey
from matplotlib.text import Text
from PIL import Image

from scoresde import plots
from scoresde.numerics.html import with_error
from scoresde.numerics.means import shared_error
from scoresde.plots.style import DPI


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _pixels(figure: Figure) -> np.ndarray:
    """The mosaic, (H, W, 3)."""
    (image,) = figure.axes[0].get_images()
    assert isinstance(image, AxesImage)
    return np.asarray(image.get_array())


def _texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def _blocks(row: np.ndarray) -> list[float]:
    """The values of a line of the mosaic, each once for a run of equal ones."""
    return [float(v) for i, v in enumerate(row) if i == 0 or v != row[i - 1]]


# -- images ---------------------------------------------------------------------------------------------


def test_grid_puts_images_in_reading_order_and_keeps_pixels_sharp() -> None:
    images = torch.linspace(0.1, 0.9, 6).reshape(6, 1, 1, 1).repeat(1, 1, 2, 2)
    images[0, 0] = torch.tensor([[0.0, 0.25], [0.5, 0.75]])
    figure = plots.image_grid(images, columns=3)
    canvas = _pixels(figure)
    height, width = canvas.shape[:2]
    assert len(figure.axes) == 1
    # No interpolated value: white gaps and the images' own levels, left to right.
    third = torch.linspace(0.1, 0.9, 6).tolist()
    assert _blocks(canvas[height // 8, :, 0]) == pytest.approx([1, 0, 0.25, 1, third[1], 1, third[2], 1])
    assert _blocks(canvas[height * 3 // 8, :, 0])[:4] == pytest.approx([1, 0.5, 0.75, 1])
    assert _blocks(canvas[height * 3 // 4, :, 0]) == pytest.approx([1, third[3], 1, third[4], 1, third[5], 1])
    # One dot of the picture for one of the canvas.
    assert figure.get_size_inches() * DPI == pytest.approx((width, height))


def test_grid_is_exact_when_saved() -> None:
    import io

    from PIL import Image

    images = (torch.arange(2 * 16) % 7 / 8).reshape(2, 1, 4, 4)
    figure = plots.image_grid(images)
    saved = np.asarray(Image.open(io.BytesIO(plots.to_png(figure))).convert("RGB"))
    canvas = _pixels(figure)
    assert saved.shape == canvas.shape
    assert np.abs(saved / 255.0 - canvas).max() <= 1 / 255  # 8 bits


def test_grid_default_is_nearly_square_and_leaves_the_rest_white() -> None:
    canvas = _pixels(plots.image_grid(np.zeros((5, 1, 4, 4))))
    lines = canvas[canvas.shape[0] // 4, :, 0], canvas[canvas.shape[0] * 3 // 4, :, 0]
    assert [_blocks(line).count(0.0) for line in lines] == [3, 2]


def test_colour_channels_stay_in_order() -> None:
    images = np.zeros((1, 3, 2, 2))
    images[0, :, 0, 0] = (0.25, 0.5, 0.75)
    canvas = _pixels(plots.image_grid(images))
    corner = tuple(np.argwhere(canvas[..., 0] == 0.25)[0])
    assert canvas[corner].tolist() == [0.25, 0.5, 0.75]


def test_titles_stand_above_their_images() -> None:
    titles = ["a", "$b_{", "<c>"]
    figure = plots.image_grid(np.zeros((3, 1, 4, 4)), columns=2, titles=titles)
    assert _texts(figure) == titles
    x = [t.get_position()[0] for t in figure.axes[0].texts]
    y = [t.get_position()[1] for t in figure.axes[0].texts]
    assert x[0] == x[2] < x[1]
    assert y[0] == y[1] < y[2]
    plots.to_png(figure)  # dollars are not formulas


def test_round_off_beyond_the_range_passes() -> None:
    assert np.unique(_pixels(plots.image_grid(np.array([-1e-6, 1 + 1e-6]).reshape(2, 1, 1, 1)))).tolist() == [
        0,
        1,
    ]


def test_forward_process_of_images_has_a_row_for_each_time() -> None:
    rows = np.stack([np.full((3, 1, 2, 2), v) for v in (0.0, 0.5, 1.0)])
    figure = plots.forward_process(rows, [0.0, 0.5, 1.0])
    canvas = _pixels(figure)
    assert _texts(figure) == ["t = 0", "t = 0.5", "t = 1"]
    column = canvas[:, canvas.shape[1] * 7 // 8, 0]
    assert _blocks(column)[:6] == [1, 0, 1, 0.5, 1]
    line = canvas[canvas.shape[0] // 6, :, 0]
    assert _blocks(line).count(0.0) == 3


def test_noise_beyond_the_range_widens_that_time_alone() -> None:
    data = np.tile([0.0, 1.0], 50).reshape(1, 2, 1, 5, 10)
    noise = 0.5 + 2 * np.tile([-1.0, 1.0], 50).reshape(1, 2, 1, 5, 10)  # four times the data's range
    figure = plots.forward_process(np.concatenate([data, 0.5 * data + 0.5 * noise, noise]), [0, 1, 2], "σ")
    assert _texts(figure)[1:] == ["σ = 0", "σ = 1", "σ = 2"]
    assert "widened" in _texts(figure)[0]
    # Every time fills the range: the data as they are, the noise shrunk to fit.
    values = np.unique(_pixels(figure).round(6))
    assert values.tolist() == [0, 1]
    quarter = plots.forward_process(np.concatenate([data, 0.5 + 0.5 * (noise - 0.5)]) * 0.5 + 0.25, [0, 1])
    assert "widened" not in " ".join(_texts(quarter))
    assert set(np.unique(_pixels(quarter).round(6))) == {0, 0.25, 0.75, 1}


def test_trajectory_of_images_has_a_row_for_each_sample_and_evenly_spaced_times() -> None:
    values = np.linspace(0, 1, 21).round(2)
    states = np.broadcast_to(values.reshape(21, 1, 1, 1, 1), (21, 2, 1, 3, 3)).copy()
    states[:, 1] = 1 - states[:, 1]
    figure = plots.trajectory(states, values[::-1].copy(), columns=3)
    assert _texts(figure) == ["t = 1", "0.5", "0"]
    canvas = _pixels(figure)[..., 0]
    lines = [line for line in (_blocks(r) for r in canvas) if 0.5 in line]
    assert lines[0] == [1, 0, 1, 0.5, 1]
    assert lines[-1] == [1, 0.5, 1, 0, 1]


# -- points ---------------------------------------------------------------------------------------------


def test_forward_process_of_points_shares_its_window() -> None:
    points = _rng().standard_normal((8, 500, 2))
    figure = plots.forward_process(points, np.linspace(0, 1, 8))
    assert len(figure.axes) == 8
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    for ax, frame in zip(figure.axes, points, strict=True):
        (scatter,) = ax.collections
        assert np.array_equal(np.asarray(scatter.get_offsets()), frame)
        assert ax.get_aspect() == 1
        assert ax.get_xlabel() == "x₁"
    assert [ax.get_ylabel() for ax in figure.axes] == ["x₂", "", "", ""] * 2
    assert [ax.get_title() for ax in figure.axes][::7] == ["t = 0", "t = 1"]


def test_forward_process_gives_each_panel_its_window_when_the_noise_is_far_larger() -> None:
    points = _rng().standard_normal((2, 500, 2)) * np.array([1.0, 50.0]).reshape(2, 1, 1)
    small, large = plots.forward_process(points, [0.1, 50.0], "σ").axes
    # Half-widths are quantiles of a normal: the ratio of the scales, to sampling error of the same draws.
    assert 30 < large.get_xlim()[1] / small.get_xlim()[1] < 80
    assert 2 < small.get_xlim()[1] < 4


def test_vector_field_keeps_directions_and_takes_the_root_of_lengths() -> None:
    axis = np.linspace(-1, 1, 5)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    vectors = _rng().standard_normal((25, 2)) * np.geomspace(0.01, 100, 25)[:, None]
    data = _rng().standard_normal((40, 2))
    figure = plots.vector_field(points, vectors, samples=data, title="a score")
    (ax,) = figure.axes
    (arrows,) = [c for c in ax.collections if isinstance(c, Quiver)]
    (scatter,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    u, v = np.asarray(arrows.U), np.asarray(arrows.V)
    assert np.arctan2(v, u) == pytest.approx(np.arctan2(vectors[:, 1], vectors[:, 0]))
    ratio = np.hypot(u, v) ** 2 / np.hypot(*vectors.T)
    assert ratio == pytest.approx(np.full(25, ratio[0]))
    assert np.array_equal(np.asarray(arrows.get_offsets()), points)
    assert np.array_equal(np.asarray(scatter.get_offsets()), data)
    assert "∝ √|v|" in ax.texts[0].get_text()
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("x₁", "x₂", "a score")
    assert ax.get_xlim()[0] < -1 < 1 < ax.get_xlim()[1]
    assert ax.get_aspect() == 1


def test_vector_field_key_is_on_the_scale_of_the_arrows() -> None:
    axis = np.linspace(-1, 1, 4)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    figure = plots.vector_field(points, np.full((16, 2), 50 / math.sqrt(2)))
    (ax,) = figure.axes
    keys = {k.text.get_text(): k.U for k in ax.get_children() if isinstance(k, QuiverKey)}
    (arrows,) = [c for c in ax.collections if isinstance(c, Quiver)]
    length = float(np.hypot(arrows.U, arrows.V)[0])
    assert keys == {"|v| = 1": pytest.approx(length / 50**0.5), "|v| = 10": pytest.approx(length / 5**0.5)}


def test_vector_field_of_zeros_and_with_a_density_draws() -> None:
    axis = np.linspace(-2, 2, 9)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = np.exp(-0.5 * (points**2).sum(1))
    figure = plots.vector_field(points, np.zeros_like(points), density=density)
    plots.to_png(figure)
    contours = [c for c in figure.axes[0].collections if not isinstance(c, (Quiver, PathCollection))]
    corners = np.concatenate([np.asarray(p.vertices).reshape(-1, 2) for c in contours for p in c.get_paths()])
    # The lowest level, 5 % of the peak, is at radius √(2 log 20) = 2.45, up to the interpolation's error.
    assert np.hypot(*corners.T).max() == pytest.approx(2.45, abs=0.03)


def test_trajectory_of_points_joins_start_and_end() -> None:
    states = _rng().standard_normal((6, 9, 2))
    states[2, 4] = (7.0, -8.0)
    (ax,) = plots.trajectory(states, np.linspace(1, 0.01, 6)).axes
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    start, end = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert np.array_equal(np.stack(lines.get_segments()), states.swapaxes(0, 1))
    assert np.array_equal(np.asarray(start.get_offsets()), states[0])
    assert np.array_equal(np.asarray(end.get_offsets()), states[-1])
    legend = ax.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["start, t = 1", "end, t = 0.01"]
    assert ax.get_xlim()[1] > 7
    assert ax.get_ylim()[0] < -8


def test_samples_and_data_share_axes() -> None:
    samples, data = _rng().standard_normal((30, 2)), 3 * _rng().standard_normal((50, 2))
    left, right = plots.samples_2d(torch.from_numpy(samples), data).axes
    assert (left.get_title(), right.get_title()) == ("data, n = 50", "samples, n = 30")
    assert np.array_equal(np.asarray(left.collections[0].get_offsets()), data)
    assert np.array_equal(np.asarray(right.collections[0].get_offsets()), samples)
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()


# -- curves ---------------------------------------------------------------------------------------------


def test_loss_by_noise_level_sorts_and_draws_error_bars() -> None:
    (ax,) = plots.loss_by_noise_level(
        [2.0, -1.0, 0.0],
        [3.0, 1.0, 2.0],
        stderr=[0.3, 0.1, 0.2],
        held_out=[3.5, 1.5, 2.5],
        ylabel="loss (nats)",
    ).axes
    (bars,) = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    assert np.array_equal(bars.lines[0].get_xydata(), [[-1, 1], [0, 2], [2, 3]])
    segments = np.stack(bars.lines[2][0].get_segments())
    assert segments[:, :, 1] == pytest.approx(np.array([[0.9, 1.1], [1.8, 2.2], [2.7, 3.3]]))
    held = next(line for line in ax.get_lines() if line.get_label() == "held out")
    assert np.asarray(held.get_ydata()).tolist() == [1.5, 2.5, 3.5]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("noise level, log (σ/α)", "loss (nats)")
    assert ax.get_yscale() == "linear"


def test_wide_losses_are_logarithmic_and_the_axis_can_be_log_snr() -> None:
    (ax,) = plots.loss_by_noise_level([0, 1], [0.01, 1.0], axis="log_snr").axes
    assert ax.get_yscale() == "log"
    assert "log (α/σ)" in ax.get_xlabel()
    (ax,) = plots.loss_by_noise_level([0, 1], [0.0, 1.0]).axes
    assert ax.get_yscale() == "linear"


def test_learning_curves_sort_by_step_and_skip_what_was_not_measured() -> None:
    nan = math.nan
    (ax,) = plots.learning_curves([30, 10, 20], {"a": [3.0, 1.0, 2.0], "b": [nan, 5.0, nan]}, "loss (nats)").axes
    a, b = ax.get_lines()
    assert np.array_equal(a.get_xydata(), [[10, 1], [20, 2], [30, 3]])
    assert np.array_equal(b.get_xydata(), [[10, 5]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training step", "loss (nats)")


def test_long_curves_get_a_centred_running_mean() -> None:
    steps = np.arange(400.0)
    spike = np.ones(400)
    spike[200] = 18
    (ax,) = plots.learning_curves(steps, {"loss": spike}).axes
    pale, mean = ax.get_lines()
    assert np.array_equal(pale.get_ydata(), spike)
    # Windows of 17 = 2·(400 // 50) + 1: the spike adds 17/17 to each of those centred on 192 to 208.
    expected = np.ones(400)
    expected[192:209] = 2
    assert np.asarray(mean.get_ydata()) == pytest.approx(expected)
    assert mean.get_label() == "loss, mean of 17 values"


def test_histograms_sum_to_one_and_mark_the_means() -> None:
    train, held_out = _rng().normal(2, 0.1, 900), _rng().normal(2.3, 0.1, 300)
    (ax,) = plots.likelihood_histogram(train, held_out).axes
    means = [np.asarray(line.get_xdata())[0] for line in ax.get_lines()]
    assert means == pytest.approx([train.mean(), held_out.mean()])
    outlines = [p for p in ax.patches if isinstance(p, Polygon) and not p.get_fill()]
    for outline in outlines:
        corners = outline.get_xy()
        widths = np.diff(corners[:, 0])
        # Area of the outline: the sum of heights, which is 1, times the width of a bin.
        area = float((widths * corners[1:, 1]).sum())
        assert area == pytest.approx(widths[widths > 0].min(), rel=1e-6)
    assert len(outlines) == 2
    assert ax.get_xlabel() == "negative log-likelihood (bits/dim)"
    solver = (np.full(len(train), 0.3), np.full(len(held_out), np.nan))
    (ax,) = plots.likelihood_histogram(train, held_out, unit="nats", solver_stderr=solver).axes
    errors = [
        math.hypot(train.std(ddof=1) / math.sqrt(len(train)), shared_error(torch.full((len(train),), 0.3))),
        held_out.std(ddof=1) / math.sqrt(len(held_out)),
    ]
    labels = [str(line.get_label()) for line in ax.get_lines()]
    for label, v, error in zip(labels, (train, held_out), errors, strict=True):
        assert f"mean {with_error(v.mean(), error)}, n" in label
    assert ax.get_xlabel() == "log-likelihood (nats)"


def test_paired_differences_have_their_mean_and_a_band_of_two_errors() -> None:
    values = {"b": _rng().normal(0.02, 0.1, 400), "c": _rng().normal(-0.01, 0.05, 400)}
    (ax,) = plots.paired_differences(values, "bits/dim", "a").axes
    zero, *means = [np.asarray(line.get_xdata())[0] for line in ax.get_lines()]
    assert zero == 0
    assert means == pytest.approx([v.mean() for v in values.values()])
    bands = [p for p in ax.patches if isinstance(p, Rectangle)]
    for band, v in zip(bands, values.values(), strict=True):
        error = v.std(ddof=1) / math.sqrt(400)
        assert (band.get_x(), band.get_width()) == pytest.approx((v.mean() - 2 * error, 4 * error))
    assert ax.get_xlabel() == "difference from a (bits/dim)"


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0, 2.0], [0.0, *[1.0] * 50, 1e9]])
def test_histograms_of_awkward_values_draw(values: list[float]) -> None:
    plots.to_png(plots.likelihood_histogram(values, values))
    plots.to_png(plots.paired_differences({"a": values}))


# -- saving ---------------------------------------------------------------------------------------------


def _simple() -> Figure:
    return plots.learning_curves([0, 1], {"loss": [1.0, 2.0]})


def test_png_repeats_and_grows_with_dpi() -> None:
    first = plots.to_png(_simple())
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert first == plots.to_png(_simple())
    width = int.from_bytes(first[16:20], "big")
    assert int.from_bytes(plots.to_png(_simple(), dpi=100)[16:20], "big") == pytest.approx(width / 2, abs=1)


def test_save_leaves_the_old_picture_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plots.save(_simple(), tmp_path / "new" / "a.png")
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save(plots.learning_curves([0, 1], {"loss": [5.0, 2.0]}), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_save_wants_a_png_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give a name that ends in \.png, got a\.pdf"):
        plots.save(_simple(), tmp_path / "a.pdf")


def test_no_window_system_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    plots.to_png(plots.samples_2d([[0.0, 1.0]], [[1.0, 2.0]]))
    assert not hasattr(plots, "plt")


# -- refusals -------------------------------------------------------------------------------------------

GREY = np.zeros((2, 1, 4, 4))
PLANE = np.zeros((3, 2))


@pytest.mark.parametrize(("figure", "dpi"), [(plots.image_grid(GREY), 200), (plots.samples_2d(PLANE, PLANE), 150)])
def test_a_notebook_shows_the_picture_at_100_pixels_an_inch(figure: Figure, dpi: int) -> None:
    content, size = figure._repr_png_()  # type: ignore[attr-defined]
    assert content == plots.to_png(figure, dpi)
    width, height = Image.open(io.BytesIO(content)).size
    assert size == {"width": round(width * 100 / dpi), "height": round(height * 100 / dpi)}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.image_grid(np.zeros((4, 4))), r"images must have 4 dimensions .* got shape \(4, 4\)"),
        (lambda: plots.image_grid(np.zeros((0, 1, 4, 4))), "at least one value"),
        (lambda: plots.image_grid(np.zeros((2, 4, 4, 3))), r"with C = 1 or 3, got shape \(2, 4, 4, 3\)"),
        (lambda: plots.image_grid(GREY - 1), r"must lie in \[0, 1\], got -1 to -1"),
        (lambda: plots.image_grid(GREY + 255), r"must lie in \[0, 1\], got 255 to 255"),
        (lambda: plots.image_grid(GREY + math.nan), "images has values that are not finite"),
        (lambda: plots.image_grid(GREY, columns=0), "columns must be at least 1, got 0"),
        (lambda: plots.image_grid(GREY, titles=["a"]), "one entry for each of the 2 images, got 1"),
        (lambda: plots.image_grid("abc"), "images must be an array of numbers, got str"),
        (lambda: plots.forward_process(GREY, [0, 1]), r"images \(T, N, C, H, W\) or points \(T, N, 2\)"),
        (lambda: plots.forward_process(GREY[:, 0], [0, 1]), r"points \(T, N, 2\), got shape \(2, 4, 4\)"),
        (lambda: plots.forward_process(PLANE[None], [0, 1]), "one value for each of the 1 rows, got 2"),
        (lambda: plots.forward_process(PLANE[None], [math.inf]), "times has values that are not finite"),
        (lambda: plots.trajectory(PLANE[None], [0]), "at least 2 states and 2 columns, got 1 and 10"),
        (lambda: plots.vector_field(PLANE, PLANE[:2]), r"one shape, got \(3, 2\) and \(2, 2\)"),
        (lambda: plots.vector_field(np.zeros((3, 3)), PLANE), r"points must be points \(N, 2\)"),
        (lambda: plots.vector_field(PLANE, PLANE, density=[1, 2]), "each of the 3 points, got 2"),
        (lambda: plots.vector_field(PLANE, PLANE, density=[1, -2, 0]), "must not be negative"),
        (lambda: plots.vector_field(PLANE, PLANE, density=[1, 2, 0]), "no contours of a density at these 3"),
        (
            lambda: plots.loss_by_noise_level([0, 1], [1]),
            r"mean must have shape \(2,\) like centres, got \(1,\)",
        ),
        (lambda: plots.loss_by_noise_level([0], [1], [-1]), "stderr must not be negative, got -1"),
        (lambda: plots.loss_by_noise_level([0], [1], axis="t"), "axis must be log_sigma or log_snr, got 't'"),  # type: ignore[arg-type]
        (lambda: plots.learning_curves([0], {}), "series is empty"),
        (
            lambda: plots.learning_curves([0], {"a": [1, 2]}),
            r"'a' must have shape \(1,\) like steps, got \(2,\)",
        ),
        (lambda: plots.learning_curves([0], {"a": [math.inf]}), "'a' has values that are not finite"),
        (lambda: plots.learning_curves([0], {"a": [math.nan]}), "'a' has no value that is not NaN"),
        (lambda: plots.likelihood_histogram([], [1]), "train must have 1 dimensions and at least one value"),
        (lambda: plots.likelihood_histogram([1], [math.nan]), "held_out has values that are not finite"),
        (lambda: plots.paired_differences({}), "differences is empty; give at least one name and its values"),
        (lambda: plots.paired_differences({"a": []}), "differences 'a' must have 1 dimensions and at least one"),
        (
            lambda: plots.samples_2d(PLANE, np.zeros((3, 1))),
            r"data must be points \(N, 2\), got shape \(3, 1\)",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)


SHAPES = [(9, 1), (9, 2), (9, 3), (9, 4), (9, 40), (9, 2, 30), (9, 1, 4, 4), (9, 3, 4, 4), (9, 5, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside data"])
def test_samples_of_any_shape_are_drawn(shape: tuple[int, ...], beside: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(shape, generator=generator)
    figure = plots.samples(x, x[:7] if beside else None)
    assert plots.to_png(figure, dpi=40).startswith(b"\x89PNG")
    words = [t.get_text().split(",")[0].split(":")[0] for t in figure.findobj(Text)]
    if shape[1] == 5:
        assert words.count("channel 4") == 1 + beside
    elif beside:
        assert {"samples", "data"} <= set(words)
    else:
        assert "data" not in words


def test_samples_keep_their_range_where_it_is_known() -> None:
    x = torch.tensor([0, 16, 8, 4], dtype=torch.uint8).reshape(1, 1, 2, 2)
    titled = plots.samples(x, levels=17, titles=["dog"])
    assert _same_pixels(titled, plots.image_grid(x / 16, titles=["dog"]))
    assert _same_pixels(plots.image_grid(x, levels=17), plots.image_grid(x / 16))
    assert _same_pixels(plots.samples(x / 16), plots.image_grid(x / 16))
    with pytest.raises(ValueError, match=r"draw samples by their own plot\(\), as in out.plot\(\), and int"):
        plots.image_grid(x)
    with pytest.raises(ValueError, match="images of 16 levels must be integers 0 to 15, got 0 to 16"):
        plots.image_grid(x, levels=16)
    with pytest.raises(ValueError, match=r"samples have shape \(2,\), expected \(N, D\), \(N, C, L\) or"):
        plots.samples(torch.zeros(2))
    with pytest.raises(ValueError, match=r"data has shape \(4, 3\), expected"):
        plots.samples(torch.zeros(4, 2), torch.zeros(4, 3))


def _same_pixels(a: Figure, b: Figure) -> bool:
    return plots.to_png(a) == plots.to_png(b)
