"""Figures of samples, processes, training and likelihoods: arrays in, a matplotlib `Figure` out.

Figures are made without pyplot, so no backend is chosen and none has to be closed; a notebook shows them by
themselves. Colours are from the palette of Okabe and Ito (2008), which colour-blind readers can tell apart;
colours and sizes are set on the artists and do not depend on the reader's matplotlib settings.
"""

from scoresde.plots.beside import samples, samples_2d
from scoresde.plots.figures import (
    forward_process,
    learning_curves,
    likelihood_histogram,
    loss_by_noise_level,
    trajectory,
    vector_field,
)
from scoresde.plots.mosaic import image_grid
from scoresde.plots.style import save, to_png

__all__ = [
    "forward_process",
    "image_grid",
    "learning_curves",
    "likelihood_histogram",
    "loss_by_noise_level",
    "samples",
    "samples_2d",
    "save",
    "to_png",
    "trajectory",
    "vector_field",
]
