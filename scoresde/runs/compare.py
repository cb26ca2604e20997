"""Samplers compared on a run's model: a row for each cell, in a table that an interrupted command resumes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde import plots, shell
from scoresde.compare import Comparison, Trial
from scoresde.compare.frontier import coloured, frontiers
from scoresde.data import Data
from scoresde.data.transforms import Transform
from scoresde.metrics import PrincipalDirections
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import Progress
from scoresde.runs.comparison_table import Cell, ComparisonTable
from scoresde.runs.conditions import conditions_of
from scoresde.runs.directory import Run
from scoresde.runs.evaluate import check_evaluation_size
from scoresde.runs.labels import label_index
from scoresde.runs.presets import Presets
from scoresde.runs.published import KnownFeatures, RunFeatures
from scoresde.runs.results import choose_name, known_tables
from scoresde.runs.team import each
from scoresde.runs.widths import run_directions
from scoresde.sampling import Adaptive
from scoresde.score import NetworkScore, ScoreModel
from scoresde.storage.bounded import read_file

__all__ = ["Presets", "compare_run"]

_DRAWN = ("error", "frechet_distance", "noise_left")
_MAX_SAMPLES = 1000  # samples, if n is not given


def compare_run(
    run: Run,
    model: NetworkScore,
    data: Data,
    options: DictConfig,
    presets: Presets,
    progress: bool = True,
    *,
    source: str | None = None,
    first: bool = True,
    guided: ScoreModel | None = None,
    guidance: str | None = None,
    guidance_label: str = "",
    features: RunFeatures | None = None,
    features_label: str = "",
) -> tuple[pd.DataFrame, str]:
    """Compare samplers on the run's model: writes `comparison.csv`, `.parquet` and `.json`, and a figure.

    The true endpoints are in `comparison.safetensors`, for another command to use. A comparison with other settings
    than the first has files of its own, named by what differs (see `choose_name`).

    Rows are appended to the table as cells finish. Those that are there already, of the same model, data and
    settings, are not computed again, but for those with a problem. The frame has them all, those of samplers that were
    not asked for this time among them.

    Args:
        run: The run.
        model: Its model.
        data: Its data, or others in the place of its test data.
        options: Options as in `conf/compare.yaml`.
        presets: The samplers.
        progress: Show a progress bar.
        source: File that the data are from, if they are not the run's.
        first: Where there is none this is the run's own comparison, whatever its settings.
        guided: The model under guidance, on which samplers are compared; the model itself if None.
        guidance: A text that is the same for two guidances exactly when they are; None for none.
        guidance_label: Short text for the guidance, as part of a name.
        features: Published features to compare on; values if None. Widths are of values still.
        features_label: Short text for them, as part of a name.

    Returns:
        The frame, and the name of the files.

    Raises:
        ConfigError: No model, an unknown sampler, more samples than are held out, or a wrong option.
    """
    if not run.model_path.is_file():
        how = shell.command("train", shell.override("run", run.directory))
        raise ConfigError(f"{run.directory} has no model.safetensors: train it first, by {how}")
    plain: Any = OmegaConf.to_container(options, resolve=True)
    for problem in option_problems("compare", plain):
        raise ConfigError(problem)
    names = None if options.samplers is None else _listed(options.samplers)
    if names is not None:
        presets.check(names)
    steps, seeds = _listed(options.steps), _listed(options.seeds)
    asked = model if guided is None else guided
    label = label_index(asked, options.get("label"), data.class_names)
    chosen = {}
    if label is not None:
        data = data.of_class(label)
        chosen = {"label": data.class_names[label] if data.class_names is not None else label}
    n = _count(options.n, data)
    most = options.max_nfe if options.max_nfe is not None or names is not None else max(steps) + 1
    if guidance is not None:
        chosen["guidance"] = guidance
    if features is not None:
        chosen["features"] = features.kind
    if options.get("condition") is not None:
        chosen["condition"] = hashlib.sha256(read_file(Path(options.condition))).hexdigest()[:8]
    comparison = _comparison(asked, data, n, options, label, features)
    settings = {
        "n": n,
        "data": data.name,
        "data_hash": data.fingerprint(),
        "model": run.fingerprint(),
        "tolerance": comparison.solver.rtol,
        "batch_size": options.batch_size,
        "device": model.device.type,
        **chosen,
        **({"likelihood": options.likelihood} if options.get("likelihood") else {}),
    }
    stem = _stem(run, data, options, settings, source, first, {"guidance": guidance_label, "features": features_label})
    cells = [(*cell, seed) for cell in presets.cells(names, steps) for seed in seeds]
    with run.alone(stem):
        table = ComparisonTable(run.directory / f"{stem}.csv", settings, presets)
        _fill(table, comparison, cells, most, progress)
        frame = table.frame(comparison.attrs())
        _write(run, table, frame, source, features)
    return frame, stem


def _stem(
    run: Run,
    data: Data,
    options: DictConfig,
    settings: dict[str, Any],
    source: str | None,
    first: bool,
    labels: Mapping[str, str],
) -> str:
    """The name under which a comparison with these settings is stored."""
    own: dict[str, Any] | None = None
    if source is not None or not first:
        tolerance = settings["tolerance"] if options.tol is None else None
        usual = {"n": min(len(data.test), _MAX_SAMPLES), "tolerance": tolerance, "batch_size": 1024}
        own = {**settings, **({} if first else usual), **({} if source is None else {"data_hash": None})}
    elif settings.keys() & {"label", "condition"}:
        own = {key: value for key, value in settings.items() if key not in ("label", "condition")}
    if settings.keys() & {"guidance", "features"}:
        own = {key: value for key, value in (own or settings).items() if key not in ("guidance", "features")}
    replacing = (
        options.overwrite and source is None and not settings.keys() & {"label", "guidance", "condition", "features"}
    )
    known = known_tables(run.directory, "comparison")
    return choose_name("comparison", known, settings, own, overwrite=replacing, labels=labels)


def _fill(
    table: ComparisonTable, comparison: Comparison, cells: Sequence[Cell], most: int | None, progress: bool
) -> None:
    """Compute the cells that a table lacks."""
    comparison.ends |= {key: x.to(comparison.model.device) for key, x in table.ends.items()}
    missing = [cell for cell in cells if table.lacks(cell, most)]
    rows = _Rows(comparison, table.presets, most, cells[0][2] if cells else 0)
    with Progress(len(cells), "comparing", "cell", len(cells) - len(missing), shown=progress) as bar:
        for cell, (row, ends, errors) in zip(missing, each(rows, missing), strict=True):
            name, count, _ = cell
            bar.note(name if count is None else f"{name}, {count} steps")
            # Of another process, or those that are here already.
            comparison.ends |= {key: x.to(comparison.model.device) for key, x in ends.items()}
            comparison.errors |= errors
            table.add(row, comparison, missing)
            bar.update()


def _listed(value: Any) -> list[Any]:
    """Each once of an option that may be a single value or a list."""
    return list(dict.fromkeys([value] if isinstance(value, str | int) else value))


def _count(n: int | None, data: Data) -> int:
    if n is None:
        n = min(len(data.test), _MAX_SAMPLES)
    if n > len(data.test):
        raise ConfigError(
            f"n is {n} but there are {len(data.test)} held-out samples, and metrics are of equally many on both sides: "
            f"give n={len(data.test)} or less"
        )
    check_evaluation_size(n)
    return n


def _comparison(
    model: ScoreModel, data: Data, n: int, options: DictConfig, label: int | None, features: RunFeatures | None
) -> Comparison:
    units = _Units(data.transform)
    # As `scoresde evaluate` chooses and compares them.
    order = torch.Generator().manual_seed(0)
    test, train = (
        units(split[torch.randperm(len(split), generator=order)[:n]]) if len(split) >= n else None
        for split in (data.test, data.train)
    )
    name = None if label is None else label if data.class_names is None else data.class_names[label]
    cond: dict[str, Any] = dict(conditions_of(model, data, n, name, options.get("condition")))
    return Comparison(
        model,
        test,
        n=n,
        features=None if features is None else KnownFeatures(features, test),
        postprocess=units.rounded,
        floor=train,
        directions=_directions(model, data, test, label is not None),
        reference=None if options.tol is None else Adaptive("tsit5", rtol=options.tol, atol=options.tol),
        batch_size=options.batch_size,
        likelihood=options.get("likelihood") or 0,
        **cond,
    )


def _directions(model: ScoreModel, data: Data, test: Tensor | None, of_class: bool) -> PrincipalDirections | None:
    """The principal directions of the training data, with the variances of the held-out ones; None without these."""
    return None if test is None else run_directions(data, test, None if of_class else model.statistics)


@dataclass(frozen=True)
class _Units:
    """The units in which samples are compared with data.

    Attributes:
        transform: The map between values and model space.
    """

    transform: Transform

    def __call__(self, raw: Tensor) -> Tensor:
        """Values in model space, cell centres for discrete data."""
        return self.transform.encode(raw).double()

    def rounded(self, x: Tensor) -> Tensor:
        """Samples in model space as the values of the data that they stand for."""
        return self(self.transform.decode(x))


@dataclass
class _Rows:
    """Computes the rows of cells, in this process or in another.

    Attributes:
        comparison: The comparison.
        presets: The samplers.
        most: Most evaluations of a sample; None for any number.
        seed: Seed of the trial of a sampler, whatever the cell.
        trials: Trials that were made, by sampler and number of steps.
        told: Endpoints that were handed back with a row.
    """

    comparison: Comparison
    presets: Presets
    most: int | None
    seed: int
    trials: dict[tuple[str, int | None], Trial] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.told |= self.comparison.ends.keys()

    def __call__(self, cell: Cell) -> tuple[dict[str, Any], dict[str, Tensor], dict[int, float]]:
        """The row of a cell, or why there is none; the true endpoints that it needed first, and the errors of all."""
        row = self._row(cell)
        ends = {key: x for key, x in self.comparison.ends.items() if key not in self.told}
        self.told |= ends.keys()
        return row, {key: x.cpu() for key, x in ends.items()}, self.comparison.errors

    def _row(self, cell: Cell) -> dict[str, Any]:
        name, steps, seed = cell
        comparison, most = self.comparison, self.most
        try:
            sampler = self.presets(name, steps)
            if (name, steps) not in self.trials:
                self.trials[name, steps] = comparison.trial(sampler, self.seed)
        except Exception as error:  # whatever a sampler may raise: the others continue
            return comparison.row(name, error, steps, seed)
        trial = self.trials[name, steps]
        if most is not None and trial.nfe > most:
            problem = ConfigError(f"left out: it takes about {trial.nfe:.0f} evaluations, and max_nfe is {most}")
            return comparison.row(name, problem, steps, seed) | {"nfe": trial.nfe, "problem": str(problem)}
        return comparison.row(name, sampler, steps, seed, trial)


def _write(
    run: Run, table: ComparisonTable, frame: pd.DataFrame, source: str | None, features: RunFeatures | None
) -> None:
    """Write what is made of all rows: parquet, the note in full, and the figure."""
    run.write_bytes(f"{table.path.stem}.parquet", frame.to_parquet(None, index=False))
    seeds, steps = sorted(set(frame["seed"].tolist())), sorted(set(frame["steps"].dropna().tolist()))
    shown = [name for name in ("default",) if name in set(frame["sampler"][frame["problem"] == ""])]
    drawn = bool(frame[[*_DRAWN]].notna().any(axis=None))
    # For the page about the run, whose charts give a sampler the colour that it has in the figure.
    colours = coloured(frame, _DRAWN, highlight=shown) if drawn else []
    table.finish(
        seeds=seeds,
        steps=steps,
        coloured=colours,
        reference=frame.attrs["reference"],
        floor=frame.attrs["floor"],
        step=run.step(),
        source=source,
    )
    if not drawn:
        return
    file = f"samples/{table.path.stem}.png"
    plots.save(frontiers(frame, _DRAWN, highlight=shown), run.directory / file)
    by = "" if features is None else f" by {features.kind}"
    caption = (
        f"Error of the endpoint, Fréchet distance to {source or 'held-out data'}{by} and noise left in the narrowest "
        f"directions of {table.settings['n']} samples, against evaluations of the network and seconds. Dotted: the "
        "error of the reference, and what training data score."
    )
    run.add_picture(file, "Samplers compared", caption)
