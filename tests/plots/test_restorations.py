"""Figures of restorations."""

import numpy as np
import pytest
import torch

from scoresde.plots import restorations, restored_curves, to_png


def columns(count: int = 3) -> dict[str, torch.Tensor]:
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = images.clone()
    hidden[..., 2:6, 2:6] = torch.nan
    return {"truth": images, "measured": hidden, "sample 1": images.flip(0)}


def pixels(figure: object) -> np.ndarray:
    (axes,) = figure.axes  # type: ignore[attr-defined]
    return np.asarray(axes.images[0].get_array())


def test_hidden_pixels_have_a_colour_of_their_own() -> None:
    shown = pixels(restorations(columns()))
    coloured = (shown.max(-1) - shown.min(-1)) > 1e-3
    assert 0.25 * 64 / (3 * 81) * 0.5 < coloured.mean() < 0.25
    assert to_png(restorations(columns())).startswith(b"\x89PNG")


def test_a_grey_and_a_coloured_column_stand_side_by_side() -> None:
    given = {"truth": torch.rand(2, 3, 8, 8), "deviation": torch.rand(2, 1, 8, 8)}
    assert restorations(given).axes[0].texts[1].get_text() == "deviation"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "columns is empty"),
        ({"truth": torch.rand(2, 1, 8, 8), "mean": torch.rand(3, 1, 8, 8)}, "columns have different shapes"),
        ({"truth": 2 * torch.ones(2, 1, 8, 8)}, r"truth must lie in \[0, 1\], got 2 to 2"),
        ({"truth": torch.rand(2, 8, 8)}, "truth must have 4 dimensions"),
        ({"truth": torch.rand(2, 5, 8, 8)}, "with C = 1 or 3"),
    ],
)
def test_columns_that_are_no_images_are_refused(given: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restorations(given)


def test_curves_show_a_panel_for_each_measurement() -> None:
    samples = torch.randn(6, 20, 12)
    figure = restored_curves(samples, samples.mean(1))
    assert len(figure.axes) == 4
    with pytest.raises(ValueError, match=r"truth has shape \(4, 11\), expected \(4, 12\)"):
        restored_curves(samples, torch.zeros(6, 11))
