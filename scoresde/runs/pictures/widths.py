"""The figure of the widths of samples along the principal directions of the data."""

from collections.abc import Mapping

from scoresde.metrics import Spectrum
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import plots, save

__all__ = ["picture_of_widths"]


def picture_of_widths(run: Run, spectra: Mapping[str, Spectrum], name: str, reference: str) -> None:
    """Draw spectra as `samples/{name}-spectrum.png`; nothing in one dimension.

    Args:
        run: Run whose directory the figure goes into.
        spectra: Spectra of sets of samples by their names, against the same data.
        name: Name of the samples.
        reference: Name of the data.
    """
    first = next(iter(spectra.values()))
    if len(first.dimensions) < 2:
        return
    figure = plots().spectra(
        first.reference_std,
        {title: found.std for title, found in spectra.items()},
        {title: found.stderr for title, found in spectra.items()},
        first.dimensions,
        reference,
    )
    drawn = spectra["samples"]
    caption = (
        f"Standard deviation along each principal direction of the training data, of {drawn.n} samples and of as much "
        f"{reference}; bands are of two standard errors. Noise left: {drawn.noise_left.value:.3g} times as wide as the "
        f"data at most; too narrow: {drawn.too_narrow.value:.3g} at least."
    )
    save(run, figure, f"samples/{name}-spectrum.png", "Widths along principal directions", caption, "chart")
