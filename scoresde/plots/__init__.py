"""Figures of samples, processes, training and likelihoods: arrays in, a matplotlib `Figure` out.

Figures are made without pyplot, so that no backend is chosen and no figure has to be closed; a notebook shows them by
themselves. Colours are from the palette of Okabe and Ito (2008), which colour-blind readers can tell apart. Colours and
sizes are set on the artists and do not depend on the user's matplotlib settings.
"""

from scoresde.extras import need as _need

_need("scoresde.plots", "matplotlib", "PIL")

from scoresde.plots.accuracy import accuracy_by_noise_level
from scoresde.plots.chains import chain_states, sequences
from scoresde.plots.curves import learning_curves, likelihood_histogram, loss_by_noise_level, paired_differences
from scoresde.plots.information import information_by_level
from scoresde.plots.mosaic import image_grid
from scoresde.plots.processes import forward_process, trajectory, vector_field
from scoresde.plots.restorations import restorations, restored_curves
from scoresde.plots.sample_figures import samples, samples_2d
from scoresde.plots.shares import group_shares
from scoresde.plots.spectra import spectra
from scoresde.plots.style import save, to_png

__all__ = [
    "accuracy_by_noise_level",
    "chain_states",
    "forward_process",
    "group_shares",
    "image_grid",
    "information_by_level",
    "learning_curves",
    "likelihood_histogram",
    "loss_by_noise_level",
    "paired_differences",
    "restorations",
    "restored_curves",
    "samples",
    "samples_2d",
    "save",
    "sequences",
    "spectra",
    "to_png",
    "trajectory",
    "vector_field",
]
