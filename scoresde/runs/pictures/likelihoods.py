"""Figures of likelihoods: histograms, and the most and the least likely images."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import plots, save
from scoresde.runs.pictures.images import is_image, to_unit
from scoresde.storage.bounded import read_csv

__all__ = ["column", "histogram", "picture_of_differences", "picture_of_likelihoods"]


def histogram(run: Run, data: Data, given: str) -> None:
    """Draw a histogram of the likelihoods of training and held-out data, if the run has both."""
    tables = [run.directory / f"likelihood-{split}.csv" for split in ("train", "test")]
    train, test = map(column, tables)
    if not (train and test):
        return
    # Exact traces have no standard error.
    probed = any(error > 0 for path in tables for error in column(path, 2))
    unit = "nats" if data.transform.levels is None else "bits/dim"
    caption = (
        f"{'Log-density' if unit == 'nats' else 'Bits per dimension'} of each sample"
        f"{f', given its {given}' if given else ''}{'; random probes widen both' if probed else ''}."
    )
    solver = [column(path, "solver_stderr") for path in tables]
    told = (solver[0], solver[1]) if all(solver) else None  # tables of version 0.1.0 do not tell it
    figure = plots().likelihood_histogram(train, test, unit=unit, solver_stderr=told)
    save(run, figure, "samples/likelihood.png", "Likelihood of training and held-out data", caption, "chart")


def picture_of_likelihoods(
    run: Run, data: Data, raw: Tensor, values: Tensor, split: str, unit: str, given: str = ""
) -> None:
    """Draw a histogram of likelihoods, and where the data are images, the most and the least likely of them.

    Args:
        run: The run.
        data: Its data.
        raw: `(n, ...)` samples in raw units.
        values: `(n,)` their likelihoods.
        split: Split that they are from.
        unit: Unit of the values: bits_per_dim or nats.
        given: What they are given, such as "label"; empty for nothing.
    """
    histogram(run, data, given)
    if not is_image(data) or len(raw) < 2:
        return
    count = min(10, len(raw) // 2)
    order = values.argsort(descending=unit != "bits_per_dim")
    chosen = torch.cat((order[:count], order[-count:]))
    images = to_unit(data, data.transform.encode(raw[chosen]))
    figure = plots().image_grid(images, columns=count, titles=[f"{v:.2f}" for v in values[chosen].tolist()])
    kind = "held-out images" if split == "test" else "training images"
    caption = (
        f"Of {len(raw)} {kind}, the {count} most likely (above) and the {count} least likely, "
        f"in {unit.replace('_per_', '/')}{f' given the {given}' if given else ''}."
    )
    save(run, figure, f"samples/likelihood-{split}.png", "Most and least likely", caption)


def picture_of_differences(
    run: Run, name: str, differences: Mapping[str, Tensor], unit: str, reference: str, caption: str
) -> None:
    """Draw what likelihoods of the same samples differ by from run to run, as `samples/{name}.png`.

    Args:
        run: Run whose directory the figure goes into.
        name: Name of the file.
        differences: `(n,)` values less those of the reference, by the names of runs.
        unit: Unit of the values.
        reference: Name of the run that the others are compared with.
        caption: Caption of the figure.
    """
    figure = plots().paired_differences(differences, unit, reference)
    save(run, figure, f"samples/{name}.png", "Likelihoods of the same samples, by their differences", caption, "chart")


def column(path: Path, index: int | str = 1) -> list[float]:
    """A column of a table of likelihoods, up to a line that is damaged; empty if there is none of that name.

    Args:
        path: The table.
        index: Name of the column, or its index: 1 holds the values, 2 their standard errors from probes.
    """
    values: list[float] = []
    head, *rows = (read_csv(path) if path.exists() else []) or [[]]
    if isinstance(index, str):
        if index not in head:
            return []
        index = head.index(index)
    for row in rows:
        try:
            values.append(float(row[index]))
        except (ValueError, IndexError):
            break
    return values
