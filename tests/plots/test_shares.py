"""The figure of shares of modes or classes."""

import numpy as np
import pytest

from scoresde.plots import group_shares, to_png

SHARE = np.array([0.5, 0.3, 0.2, 0.0])
ERROR, EQUAL = np.full(4, 0.02), np.full(4, 0.25)


def test_bars_errors_and_what_is_missing() -> None:
    figure = group_shares(SHARE, ERROR, EQUAL, ERROR, ["a", "b", "c", "d"], "class")
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.containers[0]] == SHARE.tolist()  # type: ignore[attr-defined]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c", "d"]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "exact samples, ± two standard errors", "no samples", "samples, ± two standard errors"
    ]  # fmt: skip
    (mark,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert np.asarray(mark.get_xdata()).tolist() == [3]
    assert to_png(figure)


def test_without_errors_of_the_data_these_are_a_line() -> None:
    legend = group_shares(SHARE[:3], ERROR[:3], EQUAL[:3]).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["data", "samples, ± two standard errors"]


@pytest.mark.parametrize("count", [2, 25, 300])
def test_any_number_of_groups_fits(count: int) -> None:
    ones = np.full(count, 1 / count)
    figure = group_shares(ones, ones / 10, ones)
    assert figure.get_figwidth() < 10
    assert len(figure.axes[0].get_xticks()) <= 40


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected must have shape \(4,\) like share, got \(3,\)"):
        group_shares(SHARE, ERROR, EQUAL[:3])
    with pytest.raises(ValueError, match="one entry for each of the 4 groups, got 2"):
        group_shares(SHARE, ERROR, EQUAL, names=["a", "b"])
