"""Figures of coverage and memorisation: shares of modes or classes, and the samples that are most like copies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.metrics import Neighbours, Shares
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import plots, save
from scoresde.runs.pictures.images import as_pixels, looks_like_image

__all__ = ["picture_of_copies", "picture_of_shares"]

_PAIRS = 10


def picture_of_shares(run: Run, shares: Shares, groups: Sequence[str], kind: str, name: str) -> None:
    """Draw the shares of modes or classes as `samples/{name}-shares.png`.

    Args:
        run: Run whose directory the figure goes into.
        shares: The shares.
        groups: Names of the modes or classes.
        kind: What they are: mode or class.
        name: Name of the samples.
    """
    w = shares.weights
    counted = 0.0 if shares.m is None else 1 / shares.m
    of_exact = (w * (1 - w) * (1 / shares.n + counted)).sqrt()
    figure = plots().group_shares(shares.share, shares.share_stderr, w, of_exact, groups, kind)
    plural = "classes" if kind == "class" else "modes"
    covered = int((shares.counts > 0).sum())
    caption = (
        f"The share of each {kind} among {shares.n} samples. {covered} of {len(w)} {plural} are covered; "
        f"{100 * shares.misplaced.value:.2g} % of the samples would have to change their {kind}, "
        f"{100 * shares.misplaced_expected:.2g} % by chance."
    )
    if kind == "class":
        caption += " Classes are those of a classifier, of samples and of held-out data alike."
    save(run, figure, f"samples/{name}-shares.png", f"Shares of {plural}", caption, "chart")


def picture_of_copies(run: Run, data: Data, raw: Tensor, found: Neighbours, name: str) -> None:
    """Draw the images that are most like copies above their nearest training data, as `samples/{name}-copies.png`.

    Args:
        run: Run whose directory the figure goes into.
        data: The run's data.
        raw: The samples in raw units, from the first on those of `found`; only images are drawn.
        found: Their nearest training and held-out data.
        name: Name of the samples.
    """
    if not looks_like_image(data):
        return
    order = found.ratio.argsort(stable=True)[:_PAIRS]
    rows = [raw[order], data.train[found.nearest[order]]]
    images = torch.cat([as_pixels(data, x, data.test[:500]) for x in rows])
    titles = [f"{ratio:.2f}" for ratio in found.ratio[order].tolist()] + [""] * len(order)
    caption = (
        "The samples that are most like copies, and below each the training image nearest to it. The number is the "
        "ratio of its distances to the nearest and the second nearest of all data; below 1/3 it counts as a copy."
    )
    figure = plots().image_grid(images, len(order), titles)
    save(run, figure, f"samples/{name}-copies.png", "Samples nearest to training images", caption)
