"""Pictures of a comparison: what is drawn where, read from the artists."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from scoresde import plots
from scoresde.compare.frame import COLUMNS, COMPARED, to_frame
from scoresde.compare.frontier import COLOURS, OTHERS, coloured, frontier, frontiers, pareto

ATTRS = {
    "n": 100,
    "reference": {"error": {"0": 1e-4, "1": 2e-4}},
    "floor": {"frechet_distance": [0.2, 0.05], "coverage": [0.97, 0.01]},
}


def frame(count: int = 40, noisy: int = 10) -> pd.DataFrame:
    """Samplers s0, s1, ...: s0 the best at every cost, s1 the second; the last `noisy` without an error."""
    rows = []
    for i in range(count):
        for steps in (5, 10, 20, 50):
            row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
            row |= {"sampler": f"s{i}", "steps": steps, "seed": 0, "n": 100, "nfe": steps + 1.0, "problem": ""}
            row |= {"seconds": 0.1 * steps * (1 + i % 3), **dict.fromkeys(COMPARED, 0.5)}
            row |= {f"{name}_stderr": 0.01 for name in COMPARED}
            row |= {"frechet_distance": 0.3 + 0.1 * i + 2 / steps, "coverage": 0.9 - 0.01 * i}
            if i < count - noisy:
                row |= {"error": (i + 1) * 2.0 / steps**2, "error_stderr": 0.1 / steps**2}
            rows.append(row)
    return to_frame(rows, ATTRS)


def lines(ax: Axes, colour: str) -> list[Any]:
    """The lines of samplers in a colour: those in data coordinates with markers."""
    return [
        line
        for line in ax.lines
        if line.get_transform() == ax.transData and line.get_marker() == "o" and to_hex(line.get_color()) == colour
    ]


def names(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text().startswith("s")]


def test_pareto_keeps_what_nothing_cheaper_beats() -> None:
    x, y = [1, 2, 2, 3, 4, 5], [5.0, 6.0, 4.0, 4.0, 1.0, 2.0]
    assert pareto(x, y) == [0, 2, 4]
    assert pareto(x, y, higher=True) == [0, 1]
    assert pareto([], []) == []


def test_the_best_are_in_colour_and_named_and_the_others_pale() -> None:
    found = frame()
    (ax,) = frontier(found, best=3).axes
    assert set(names(ax)) == {"s0", "s1", "s2"}
    assert coloured(found, ("error",), ("nfe",), best=3) == ["s0", "s1", "s2"]
    for i, colour in enumerate(COLOURS[:3]):
        (line,) = lines(ax, colour.lower())
        mine = found[found["sampler"] == f"s{i}"]
        np.testing.assert_array_equal(line.get_xdata(), mine["nfe"])
        np.testing.assert_array_equal(line.get_ydata(), mine["error"])
    # Of the 30 samplers that have an error.
    assert len(lines(ax, OTHERS)) == 27
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    frame_of = ax.get_ylim()
    above = sum(v > frame_of[1] for v in found["error"].dropna())
    assert any(text.get_text() == f"{above} of 120 points are above" for text in ax.texts)


def test_the_frontier_is_what_is_best_at_each_cost() -> None:
    (ax,) = frontier(frame()).axes
    (step,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    # s0 has 2/steps² at steps + 1 evaluations; the last goes on to the edge.
    np.testing.assert_allclose(step.get_xdata()[:-1], [6, 11, 21, 51])
    np.testing.assert_allclose(step.get_ydata()[:-1], [2 / 25, 2 / 100, 2 / 400, 2 / 2500])
    assert step.get_ydata()[-1] == step.get_ydata()[-2]


@pytest.mark.parametrize(("factor", "seen"), [(4.0, True), (12.0, True), (1e9, False)])
def test_a_coloured_sampler_is_seen_unless_it_is_much_too_far(factor: float, seen: bool) -> None:
    found = frame(2, noisy=0)
    found.loc[found["sampler"] == "s1", "error"] = factor * found.loc[found["sampler"] == "s0", "error"].to_numpy()
    found = found[found["steps"].isin((5, 10))]
    (ax,) = frontier(found).axes
    low, high = ax.get_ylim()
    best, worse = (found.loc[found["sampler"] == name, "error"] for name in ("s0", "s1"))
    assert best.between(low, high).all()
    assert worse.between(low, high).any() == seen
    assert set(names(ax)) == ({"s0", "s1"} if seen else {"s0"})


def test_error_bars_and_floor() -> None:
    (ax,) = frontier(frame(), "frechet_distance", best=1).axes
    (container,) = ax.containers
    (bars,) = container.lines[2]  # type: ignore[attr-defined]
    heights = [float(np.ptp(segment[:, 1])) for segment in bars.get_segments()]
    assert heights == pytest.approx([0.02] * 4)
    (floor,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert set(floor.get_ydata()) == {0.2}
    low, high = ax.get_ylim()
    assert low < 0.2 < high
    assert "training data" in [text.get_text() for text in ax.texts]
    # Of exact samples, where the density is known.
    known = frame()
    known.attrs = {**known.attrs, "floor": {"nats_lost": [0.01, 0.01]}, "exact": ["nats_lost"]}
    known["nats_lost"] = known["frechet_distance"]
    (ax,) = frontier(known, "nats_lost", best=1).axes
    assert "exact samples" in [text.get_text() for text in ax.texts]
    # Of several seeds the worst.
    (ax,) = frontier(frame(), "error").axes
    (floor,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert set(floor.get_ydata()) == {2e-4}


def test_noise_is_dashed_and_more_is_better_for_coverage() -> None:
    found = frame(6, noisy=5)
    (ax,) = frontier(found, "coverage", best=6).axes
    styles = {to_hex(line.get_color()): line.is_dashed() for line in ax.lines if line.get_marker() == "o"}
    # s0 is the best, with the first colour.
    assert styles == {colour.lower(): colour != COLOURS[0] for colour in COLOURS}
    (step,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert set(step.get_ydata()) == {0.9}
    assert ax.get_yscale() == "linear"


def test_highlighted_samplers_are_in_colour_whatever_their_rank() -> None:
    (ax,) = frontier(frame(), "frechet_distance", best=2, highlight=["s33"]).axes
    (line,) = lines(ax, COLOURS[0].lower())
    assert line.get_ydata()[0] == pytest.approx(0.3 + 3.3 + 0.4)
    assert len(lines(ax, OTHERS)) == 38


def test_names_stay_apart_and_inside() -> None:
    figure = frontier(frame(6, noisy=0), best=6)
    plots.to_png(figure, dpi=60)  # draws it
    (ax,) = figure.axes
    boxes = sorted((t.get_window_extent() for t in ax.texts if t.get_text() in names(ax)), key=lambda box: box.y0)
    assert len(boxes) == 6
    assert all(a.y1 <= b.y0 + 1 for a, b in pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_panels_share_their_colours_and_leave_out_what_there_is_not() -> None:
    figure = frontiers(frame(), best=4)
    assert len(figure.axes) == 4
    first, second = figure.axes[:2]
    values = [lines(ax, COLOURS[0].lower())[0].get_ydata().tolist() for ax in (first, second)]
    assert values[0] == values[1]
    # Both rows rank the samplers alike, so that there are four in all.
    assert {frozenset(names(ax)) for ax in figure.axes} == {frozenset(("s0", "s1", "s2", "s3"))}
    only = frontiers(frame(5, noisy=5))
    assert [ax.get_ylabel() for ax in only.axes] == ["Fréchet distance"] * 2


def test_lines_with_problems_are_not_drawn() -> None:
    found = frame(3, noisy=0)
    bad = (found["sampler"] == "s1") & (found["steps"] == 10)
    found.loc[bad, [*COMPARED, "error", "seconds"]] = np.nan
    found.loc[bad, "problem"] = "it failed"
    (ax,) = frontier(found).axes
    assert sorted(len(line.get_xdata()) for c in COLOURS[:3] for line in lines(ax, c.lower())) == [3, 4, 4]


def test_seeds_are_averaged() -> None:
    one, other = frame(1, noisy=0), frame(1, noisy=0)
    other["seed"], other["error"] = 1, 3 * other["error"]
    found = pd.concat([one, other])
    found.attrs = one.attrs
    (ax,) = frontier(found).axes
    (line,) = lines(ax, COLOURS[0].lower())
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), math.sqrt(5) * one["error"])  # √((1 + 9)/2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": "fid"}, "cannot draw 'fid': expected one of error, frechet_distance"),
        ({"x": "steps"}, "cannot draw 'steps': expected one of nfe, seconds"),
        ({"highlight": ["s99"]}, "highlight has 's99', which is not in the frame"),
        ({"best": 7}, "best is 7, expected 0 to 6"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frontier(frame(2), **options)


def test_a_frame_without_the_values_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite error in the frame: only samplers without noise have an error"):
        frontier(frame(2, noisy=2))
    mixed = frame(2)
    mixed.loc[0, "n"] = 50
    with pytest.raises(ValueError, match="lines of different n, 50 and 100"):
        frontier(mixed)
