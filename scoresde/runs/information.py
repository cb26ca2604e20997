"""Information of a run's data under its model: a row for each sample, and a page's worth of results.

`information-SPLIT.csv` has the rows, a batch at a time, so that an interrupted command resumes; the JSON file beside it
has their settings and the results, which the report reads.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde.config.targets import instantiate
from scoresde.data import Data, DataInfo
from scoresde.information.dimension import default_log_snr
from scoresde.information.paths import common_strata, log_snr_range
from scoresde.likelihood.options import FlowOptions
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.trace import Divergence
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import Progress
from scoresde.runs.blocks import Block, block_size, blocks
from scoresde.runs.conditions import refuse_others
from scoresde.runs.directory import Run
from scoresde.runs.information_results import results
from scoresde.runs.information_table import InformationTable, band_edges, rows_of, rows_of_training
from scoresde.runs.likelihood import samples_of
from scoresde.runs.pictures.information import check_no_figure, pictures_of_information
from scoresde.runs.results import Filing, name_for_weights
from scoresde.runs.team import each
from scoresde.score import NetworkScore
from scoresde.storage.limits import check_steps

__all__ = ["information"]

# Settings that errors of denoising depend on.
_OF_TRAINING = ("unit", "conditional", "data", "draws", "t_min", "seed", "model", "data_hash")


def information(run: Run, model: NetworkScore, data: Data, options: DictConfig) -> tuple[str, dict[str, Any]]:
    """What (the first n samples of) a split tell of the model, in tables, figures and a note.

    Rows that are there already, of the same model, data and settings, are not computed again. Results of more samples
    with the same settings stay as they are, with their figures.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        options: Options as in `conf/information.yaml`.

    Returns:
        The name of the table, its note and its figures, and the content of the note; where that stayed as it was, the
        number of its samples is `kept`.

    Raises:
        ConfigError: A wrong option, labels of an unconditional run, or a name under which there is something else.
    """
    plain: Any = OmegaConf.to_container(options, resolve=True)
    for problem in option_problems("information", plain):
        raise ConfigError(problem)
    check_no_figure(options.name)
    refuse_others(model, "information")
    divergence = _checked(run, model, data, options)
    split, filing = options.split or "test", Filing()
    raw, labels = samples_of(data, split, options.n, filing)
    labels = labels if model.classes is not None else None
    settings = _settings(run, model, data, split, options, divergence)
    stem = _stem(run, f"information-{split}", settings, options)

    # Classes are as probable as among the training labels.
    known = data if settings["classes"] else DataInfo(data.name, data.shape, data.transform)
    rows = _Rows(partial(rows_of, model, known, settings=settings, divergence=divergence), model.device)
    began = time.perf_counter()
    with run.alone(stem):
        table = _filled(run, stem, settings, raw, labels, options, rows, f"information, {split}")
        training = None
        if options.overfitting and split == "test":
            training = _training(run, model, data, settings, len(raw), options)
        low_to_high = common_strata([model], settings["draws"])
        seconds = time.perf_counter() - began
        note = {
            **results(table, len(raw), training, settings, data, labels, band_edges(low_to_high)),
            "step": run.step(),
            "seconds": seconds,
        }
        if training is None and split == "test" and "training" in table.note:
            # What an earlier command found with these settings stays, though it was not asked for this time.
            note["training"] = table.note["training"]
        kept = table.results_of_more(note)
        if not kept:
            table.write_note(**note)
            pictures_of_information(run, model, data, raw, labels, table, stem, note, options.seed)
    return stem, {"settings": settings, **note, **({"kept": kept} if kept else {})}


def _checked(run: Run, model: NetworkScore, data: Data, options: DictConfig) -> Divergence:
    """The divergence, and a check of what `options` ask for.

    Raises:
        ConfigError: What cannot be had from this run.
    """
    try:
        check_steps(options.draws, "draws")
        divergence: Divergence = instantiate(options, "divergence", run.allow)
        divergence.for_shape(data.shape)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    level, (low, high) = options.dimension_log_snr, log_snr_range(model)
    if level is not None and not low <= level <= high:
        raise ConfigError(
            f"dimension_log_snr is {level:g}, expected a number from {low:.4g} to {high:.4g}, which the model's t_max "
            "and t_min are, or null"
        )
    if options.labels and model.classes is None:
        raise ConfigError(
            "labels=true is the conditional information of an unconditional run: leave it out, or train with "
            "network.num_classes and network.label_dropout"
        )
    if options.labels and not _leaves_labels_out(model):
        raise ConfigError(
            "labels=true needs the density without labels, and the network was trained with label_dropout=0: leave it "
            "out, or train with network.label_dropout=0.1"
        )
    if model.classes is not None and (data.test_labels is None or data.train_labels is None):
        raise ConfigError(f"the model is conditional on labels, and {data.name} has none")
    return divergence


def _leaves_labels_out(model: NetworkScore) -> bool:
    """True for a network that has a prediction without labels."""
    if model.classes is None:
        return False
    shape = model.sample_shape(None)
    try:
        with torch.no_grad(), model.evaluating():
            model.noise(torch.zeros(1, *shape, device=model.device, dtype=model.dtype), torch.tensor([model.sde.t_max]))
    except ValueError:
        return False
    return True


def _settings(
    run: Run, model: NetworkScore, data: Data, split: str, options: DictConfig, divergence: Divergence
) -> dict[str, Any]:
    """The settings that the rows depend on, as plain values by name."""
    labels = _leaves_labels_out(model) if options.labels is None else bool(options.labels)
    level = options.dimension_log_snr
    return {
        "split": split,
        "unit": "nats" if data.transform.levels is None else "bits_per_dim",
        "conditional": model.classes is not None,
        "data": data.name,
        "divergence": repr(divergence.for_shape(data.shape)),
        "tol": FlowOptions(tol=options.tol).tolerance(math.prod(data.shape)).nats,
        "draws": options.draws,
        "labels": labels,
        "classes": options.classes if model.classes is not None else 0,
        "dimension": options.dimension,
        "dimension_log_snr": default_log_snr(model) if level is None else float(level),
        "t_min": model.sde.t_min,
        "seed": options.seed,
        "model": run.fingerprint(),
        "data_hash": data.fingerprint(),
    }


def _stem(run: Run, own_name: str, settings: dict[str, Any], options: DictConfig) -> str:
    return name_for_weights(run, own_name, settings, given=str(options.name or ""), overwrite=options.overwrite)


@dataclass(frozen=True)
class _Rows:
    """The rows of the table for blocks of samples, in this process or in another.

    Attributes:
        of: The rows of some samples, from their `raw` values, the index of the `first` of them, and their `labels`.
        device: Device of the model.
    """

    of: Callable[..., list[list[float]]]
    device: torch.device

    def __call__(self, block: Block) -> list[list[float]]:
        assert block.start is not None
        labels = block.cond.get("labels")
        own = None if labels is None else labels.to(self.device)
        return self.of(raw=block.start.to(self.device), first=block.first, labels=own)


def _filled(
    run: Run,
    stem: str,
    settings: dict[str, Any],
    raw: Tensor,
    labels: Tensor | None,
    options: DictConfig,
    rows: "_Rows",
    what: str,
) -> InformationTable:
    """The table of a name with the rows of all samples, of which those that are missing are computed."""
    table = InformationTable(run.directory / f"{stem}.csv", settings["draws"], settings)
    if table.rows:
        table.resume()
    done = min(len(table.rows), len(raw))
    with Progress(len(raw), what, "sample", done, shown=options.progress) as bar:
        cond = {} if labels is None else {"labels": labels}
        size = block_size(len(raw), options.batch_size)
        for made in each(rows, blocks(len(raw), size, cond, raw, len(table.rows))):
            table.add(made)
            bar.update(len(made))
            mean, error = mean_and_error(table.column("immse", len(raw)))
            bar.note(f"{mean:.4f} ± {error:.4f} nats")
    return table


def _training(
    run: Run, model: NetworkScore, data: Data, settings: dict[str, Any], n: int, options: DictConfig
) -> InformationTable:
    """The table of as many training samples, with their errors of denoising."""
    raw, labels = samples_of(data, "train", n, Filing())
    labels = labels if model.classes is not None else None
    settings = {"split": "train", **{key: settings[key] for key in _OF_TRAINING}}
    stem = _stem(run, "information-train", settings, options)
    known = DataInfo(data.name, data.shape, data.transform)
    rows = _Rows(partial(rows_of_training, model, known, settings=settings), model.device)
    return _filled(run, stem, settings, raw, labels, options, rows, "information, train")
