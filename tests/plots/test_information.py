"""Curves of information over noise levels."""

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from scoresde.plots import information_by_level


def test_steps_and_bands_lie_on_the_noise_axis() -> None:
    figure = information_by_level([0.0, 1.0, 3.0], {"a": ([2.0, 5.0], [0.1, np.nan]), "b": ([1.0, 1.0], [0.0, 0.0])})
    (ax,) = figure.axes
    values, edges, _ = next(patch.get_data() for patch in ax.patches if isinstance(patch, StepPatch))
    assert edges.tolist() == [-3.0, -1.0, 0.0]
    assert values.tolist() == [5.0, 2.0]
    assert ax.get_xlabel() == "noise level, log (σ/α)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    low, high = ax.collections[0].get_datalim(ax.transData).intervaly
    assert (low, high) == pytest.approx((1.8, 5.0))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="series is empty"):
        information_by_level([0.0, 1.0], {})
    with pytest.raises(ValueError, match="edges must increase"):
        information_by_level([1.0, 0.0], {"a": ([1.0], [0.0])})
    with pytest.raises(ValueError, match=r"must have shape \(1,\), one value for each band"):
        information_by_level([0.0, 1.0], {"a": ([1.0, 2.0], [0.0, 0.0])})
