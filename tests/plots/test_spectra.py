import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from scoresde.plots import spectra, to_png

DATA = np.geomspace(1, 1e-3, 30)


def test_widths_and_their_ratios_to_the_data() -> None:
    noisy = np.hypot(DATA, 0.02)
    figure = spectra(DATA, {"samples": noisy, "training data": DATA}, {"samples": np.full(30, 0.1)})
    above, below = figure.axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["held-out data", "samples", "training data"]
    np.testing.assert_array_equal(above.lines[0].get_ydata(), DATA)
    np.testing.assert_array_equal(above.lines[1].get_ydata(), noisy)
    # Below: the line of 1, then the ratios.
    np.testing.assert_allclose(below.lines[1].get_ydata(), noisy / DATA)
    np.testing.assert_array_equal(below.lines[1].get_xdata(), np.arange(1, 31))
    assert (above.get_yscale(), below.get_yscale()) == ("log", "log")
    (band,) = [c for c in below.collections if isinstance(c, PolyCollection)]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(20.02 * np.exp(0.2), rel=1e-3)
    marks = below.get_yticks()
    assert 1 in marks
    assert 3 <= len(marks) <= 7
    assert to_png(figure)[:4] == b"\x89PNG"


def test_an_entry_of_many_directions_stands_in_their_middle() -> None:
    figure = spectra([1.0, 0.5, 0.1], {"samples": [1.0, 0.5, 0.2]}, dimensions=[1, 1, 98])
    # Directions 3 to 100.
    assert figure.axes[1].lines[1].get_xdata().tolist() == [1, 2, 51.5]


def test_rejected_input() -> None:
    with pytest.raises(ValueError, match="samples_std is empty"):
        spectra(DATA, {})
    with pytest.raises(ValueError, match="must be positive"):
        spectra(DATA, {"samples": 0 * DATA})
    with pytest.raises(ValueError, match="must have shape"):
        spectra(DATA, {"samples": DATA[:3]})
