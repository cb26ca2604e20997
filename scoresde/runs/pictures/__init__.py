"""Figures of a run: what the model does to data and to noise, and how well."""

from collections.abc import Sequence

from torch import Tensor

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data, DataInfo
from scoresde.runs.conditions import given_names
from scoresde.runs.directory import Run
from scoresde.runs.pictures.accuracy import accuracy_picture
from scoresde.runs.pictures.chains import chain_picture
from scoresde.runs.pictures.coverage import picture_of_copies, picture_of_shares
from scoresde.runs.pictures.drawing import BESIDE, plots, save
from scoresde.runs.pictures.images import as_pixels, images_beside_data, is_image, looks_like_image, process_pictures
from scoresde.runs.pictures.likelihoods import histogram, picture_of_likelihoods
from scoresde.runs.pictures.losses import loss_picture
from scoresde.runs.pictures.plane import plane_pictures
from scoresde.runs.pictures.vectors import line_picture, vectors_beside_data
from scoresde.runs.pictures.widths import picture_of_widths
from scoresde.score import ScoreModel

__all__ = [
    "accuracy_picture",
    "picture_of_copies",
    "picture_of_likelihoods",
    "picture_of_samples",
    "picture_of_shares",
    "picture_of_widths",
    "pictures",
]


def picture_of_samples(
    run: Run, data: Data | DataInfo, raw: Tensor, name: str, caption: str, classes: Sequence[str] = ()
) -> None:
    """Draw samples `(n, ...)` in raw units as `samples/{name}.png`, beside held-out data where there are any.

    Args:
        run: Run whose directory the figure goes into.
        data: The run's data, or what is known of them.
        raw: The samples.
        name: Name of the file.
        caption: Caption that says how they were drawn.
        classes: Names of the classes that samples come from in turn; none if they do not.
    """
    file = f"samples/{name}.png"
    if looks_like_image(data):
        images = as_pixels(data, raw[:100], raw)
        save(run, plots().image_grid(images, min(len(images), 10)), file, "Samples", caption)
        if isinstance(data, Data) and name == "samples":
            images_beside_data(run, data, raw, caption, classes)
    elif data.shape == (2,):
        if isinstance(data, Data):
            caption += " Beside them, held-out data."
        test = data.test[: len(raw)] if isinstance(data, Data) else None
        save(run, plots().samples_2d(raw, test), file, BESIDE, caption, "chart")
    elif isinstance(data, Data):
        vectors_beside_data(run, data, raw, file, caption)


def pictures(run: Run, model: ScoreModel | DiscreteChainModel, data: Data, *, seed: int = 0) -> None:
    """Draw what the model does: the forward process, denoising, the field, losses and likelihoods."""
    if isinstance(model, DiscreteChainModel):
        chain_picture(run, model, data, seed)
    elif is_image(data):
        process_pictures(run, model, data, seed)
    elif data.shape == (2,):
        plane_pictures(run, model, data, seed)
    elif data.shape == (1,):
        line_picture(run, model, data, seed)
    loss_picture(run)
    histogram(run, data, given_names(model))
