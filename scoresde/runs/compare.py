"""Samplers compared on a run's model: a line for each cell, in a file that an interrupted command goes on from."""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde import plots, shell
from scoresde.compare import Comparison, Trial, ignores_steps
from scoresde.compare.frame import COLUMNS, to_frame
from scoresde.compare.frontier import coloured, frontiers
from scoresde.config.targets import instantiate
from scoresde.data import Data
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.options.signatures import nearest
from scoresde.progress import Progress
from scoresde.runs.directory import Run
from scoresde.runs.evaluate import check_evaluation_size
from scoresde.runs.labels import label_index, labels_of
from scoresde.runs.results import choose_name, known_tables
from scoresde.sampling import Adaptive, Sampler, ScipyODE, TorchSDE, TunedTimes
from scoresde.score import NetworkScore
from scoresde.storage.bounded import read_file
from scoresde.storage.table import ResumableTable
from scoresde.storage.tensors import load_tensors, save_tensors
from scoresde.training.checkpoint import CheckpointError

__all__ = ["Presets", "compare_run"]

MOST = 1000  # samples, if n is not given
Cell = tuple[str, int | None, int]  # sampler, steps, seed


class Presets:
    """The samplers of folders of configurations, by the names of the files.

    Args:
        folder: such as `conf/sampler`.
        directory: of the run, where the files of `scoresde tune` are.
        allow: further packages that the configurations may name.
        further: folders of the user's own samplers; of files of the same name the first counts, as for Hydra.
    """

    def __init__(self, folder: Path, directory: Path, allow: Sequence[str] = (), further: Sequence[Path] = ()) -> None:
        self.directory = directory
        self.allow = tuple(allow)
        self.files: dict[str, Path] = {}
        for place in (folder, *further):
            for path in sorted(place.glob("*.yaml")):
                self.files.setdefault(path.stem, path)

    def __call__(self, name: str, steps: int | None = None) -> Sampler:
        """The sampler of a name, at its own number of steps if none is given."""
        self.check([name])
        config = OmegaConf.create({"sampler": OmegaConf.load(self.files[name])})
        if OmegaConf.select(config, "sampler.grid.path", default=0) is None:
            config.sampler.grid.path = str(self.directory)
        if steps is not None:
            config.sampler.grid.steps = steps
        return instantiate(config, "sampler", self.allow)

    def check(self, names: Sequence[str]) -> None:
        """ConfigError for the first name that is no file's."""
        for name in names:
            if name not in self.files:
                raise ConfigError(
                    f"unknown sampler {name!r}{nearest(str(name), self.files)}; "
                    f"expected names of {', '.join(self.files)}"
                )

    def cells(self, names: Sequence[str] | None, steps: Sequence[int]) -> list[tuple[str, int | None]]:
        """Samplers and numbers of steps: a sampler whose tolerance decides comes once, with None.

        Without names these are all, but for those of other libraries, of which a sample depends on its batch mates,
        and numbers of steps that no file of `scoresde tune` is for.
        """
        cells: list[tuple[str, int | None]] = []
        for name in self.files if names is None else dict.fromkeys(names):
            own = self(name)
            if names is None and isinstance(own.solver, ScipyODE | TorchSDE):
                continue
            if ignores_steps(own):
                cells.append((name, None))
                continue
            tuned = names is None and isinstance(own.grid, TunedTimes)
            cells += [(name, n) for n in steps if not tuned or self._tuned(n).is_file()]
        return cells

    def identity(self, name: str, steps: int | None) -> str:
        """A text that is the same exactly when the sampler is."""
        text = f"{OmegaConf.to_yaml(OmegaConf.load(self.files[name]))}{steps}"
        if steps is not None and "TunedTimes" in text and self._tuned(steps).is_file():
            text += read_file(self._tuned(steps)).decode(errors="replace")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _tuned(self, steps: int) -> Path:
        return self.directory / f"tuned-{steps}.json"


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
) -> tuple[pd.DataFrame, str]:
    """Compare samplers on the run's model: writes `comparison.csv`, `.parquet` and `.json`, and a picture.

    The true endpoints are in `comparison.safetensors`, for another command to use. A comparison with other settings
    than the first has files of its own, named by what differs (see `choose_name`).

    Lines are appended to the table as cells finish. Those that are there already, of the same model, data and
    settings, are not computed again, but for those with a problem. The frame has them all, those of samplers that were
    not asked for this time among them.

    Returns:
        The frame, and the name of the files.

    Args:
        run: the run.
        model: its model.
        data: its data, or others in the place of its test data.
        options: as in `conf/compare.yaml`.
        presets: where samplers are from.
        progress: show a progress bar.
        source: the file that the data are from, if they are not the run's.
        first: where there is none this is the run's own comparison, whatever its settings.

    Raises:
        ConfigError: no model, an unknown sampler, more samples than are held out, or a wrong option.
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
    label = label_index(model, options.get("label"), data.class_names)
    chosen = {}
    if label is not None:
        data = data.of_class(label)
        chosen = {"label": data.class_names[label] if data.class_names is not None else label}
    n = _count(options.n, data)
    most = options.max_nfe if options.max_nfe is not None or names is not None else max(steps) + 1
    comparison = _comparison(run, model, data, n, options, label)
    settings = {
        "n": n,
        "data": data.name,
        "data_hash": data.fingerprint(),
        "model": run.fingerprint(),
        "tolerance": comparison.solver.rtol,
        "batch_size": options.batch_size,
        "device": model.device.type,
        **chosen,
    }
    known = known_tables(run.directory, "comparison")
    own: dict[str, Any] | None = None
    if source is not None or not first:
        tolerance = settings["tolerance"] if options.tol is None else None
        usual = {"n": min(len(data.test), MOST), "tolerance": tolerance, "batch_size": 1024}
        own = {**settings, **({} if first else usual), **({} if source is None else {"data_hash": None})}
    elif label is not None:
        own = {key: value for key, value in settings.items() if key != "label"}
    replacing = options.overwrite and source is None and label is None
    stem = choose_name("comparison", known, settings, own, overwrite=replacing)
    with run.alone(stem):
        table = _Table(run.directory / f"{stem}.csv", settings, presets)
        _fill(
            table, comparison, [(*cell, seed) for cell in presets.cells(names, steps) for seed in seeds], most, progress
        )
        frame = table.frame(comparison.attrs())
        _write(run, table, frame, source)
    return frame, stem


def _fill(table: "_Table", comparison: Comparison, cells: Sequence[Cell], most: int | None, progress: bool) -> None:
    """Compute the cells that a table lacks."""
    comparison.ends |= {key: x.to(comparison.model.device) for key, x in table.ends.items()}
    missing = [cell for cell in cells if table.lacks(cell, most)]
    trials: dict[tuple[str, int | None], Trial] = {}
    with Progress(len(cells), "comparing", "cell", len(cells) - len(missing), shown=progress) as bar:
        for cell in missing:
            name, count, _ = cell
            bar.note(name if count is None else f"{name}, {count} steps")
            table.add(_row(comparison, table.presets, cell, most, trials), comparison, missing)
            bar.update()


def _listed(value: Any) -> list[Any]:
    """Each once of an option that may be a single value or a list."""
    return list(dict.fromkeys([value] if isinstance(value, str | int) else value))


def _count(n: Any, data: Data) -> int:
    if n is None:
        n = min(len(data.test), MOST)
    if n > len(data.test):
        raise ConfigError(
            f"n is {n} but there are {len(data.test)} held-out samples, and metrics are of equally many on both sides: "
            f"give n={len(data.test)} or less"
        )
    check_evaluation_size(n)
    return n


def _comparison(
    run: Run, model: NetworkScore, data: Data, n: int, options: DictConfig, label: int | None
) -> Comparison:
    def units(raw: Tensor) -> Tensor:
        """Values in model space, cell centres for discrete data."""
        return data.transform.encode(raw).double()

    # As `scoresde evaluate` chooses and compares them.
    order = torch.Generator().manual_seed(0)
    test, train = (
        units(split[torch.randperm(len(split), generator=order)[:n]]) if len(split) >= n else None
        for split in (data.test, data.train)
    )
    cond: dict[str, Any] = dict(labels_of(model, n, label))
    return Comparison(
        model,
        test,
        n=n,
        postprocess=lambda x: units(data.transform.decode(x)),
        floor=train,
        reference=None if options.tol is None else Adaptive("tsit5", rtol=options.tol, atol=options.tol),
        batch_size=options.batch_size,
        **cond,
    )


def _row(
    comparison: Comparison,
    presets: Presets,
    cell: Cell,
    most: int | None,
    trials: dict[tuple[str, int | None], Trial],
) -> dict[str, Any]:
    """The line of a cell, or why there is none."""
    name, steps, seed = cell
    try:
        sampler = presets(name, steps)
        if (name, steps) not in trials:
            trials[name, steps] = comparison.trial(sampler, seed)
    except Exception as error:  # whatever a sampler may raise: the others go on
        return comparison.row(name, error, steps, seed)
    trial = trials[name, steps]
    if most is not None and trial.nfe > most:
        problem = ConfigError(f"left out: it takes about {trial.nfe:.0f} evaluations, and max_nfe is {most}")
        return comparison.row(name, problem, steps, seed) | {"nfe": trial.nfe, "problem": str(problem)}
    return comparison.row(name, sampler, steps, seed, trial)


class _Table(ResumableTable):
    """The cells: a row each, with the identity of its sampler in the note, and the endpoints of the reference."""

    def __init__(self, path: Path, settings: dict[str, Any], presets: Presets) -> None:
        super().__init__(path, COLUMNS, settings)
        self.endpoints = path.with_suffix(".safetensors")
        self.presets = presets
        self.identities: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        self.rows: dict[Cell, dict[str, Any]] = {}
        self.ends: dict[str, Tensor] = {}
        identities, errors = self.note.get("samplers"), self.note.get("reference_error")
        if isinstance(identities, dict) and isinstance(errors, dict):
            self.identities, self.errors = identities, errors
            rows = {(row["sampler"], row["steps"], row["seed"]): row for row in _parsed(self.lines)}
            self.rows = {cell: row for cell, row in rows.items() if self._same(cell)}
            with contextlib.suppress(CheckpointError):  # not there, or damaged: they are computed again
                self.ends = load_tensors(self.endpoints)

    def _same(self, cell: Cell) -> bool:
        """Whether the sampler is still what it was."""
        name, steps, _ = cell
        return name in self.presets.files and self.identities.get(_key(name, steps)) == self.presets.identity(
            name, steps
        )

    def lacks(self, cell: Cell, most: int | None) -> bool:
        """Whether a cell is to be computed: not there, or there with a problem that may be gone."""
        row = self.rows.get(cell)
        if row is None:
            return True
        left_out = most is not None and row["nfe"] > most
        return bool(row["problem"]) and not left_out

    def add(self, row: dict[str, Any], comparison: Comparison, missing: Sequence[Cell]) -> None:
        """Append a line."""
        if not self.begun:
            # Not before there is a line: those of another model or of other settings are lost with it.
            if not self.ends:
                self.endpoints.unlink(missing_ok=True)
            self.rows = {cell: r for cell, r in self.rows.items() if cell not in missing}
            self.begin(map(_texts, self.rows.values()), **self._known())
        self.rows[row["sampler"], row["steps"], row["seed"]] = row
        self.identities[_key(row["sampler"], row["steps"])] = self.presets.identity(row["sampler"], row["steps"])
        for seed, error in comparison.errors.items():
            self.errors[str(seed)] = max(error, self.errors.get(str(seed), 0.0))
        self.write_note(**self._known())
        if len(comparison.ends) > len(self.ends):
            self.ends = dict(comparison.ends)
            save_tensors(self.endpoints, self.ends, {"format": "scoresde-endpoints-1"})
        self.append([_texts(row)])

    def finish(self, **further: Any) -> None:
        """Write the note in full."""
        self.write_note(**self._known(), **further)

    def _known(self) -> dict[str, Any]:
        return {"samplers": self.identities, "reference_error": self.errors}

    def frame(self, attrs: dict[str, Any]) -> pd.DataFrame:
        """All lines, by sampler, steps and seed."""
        order = list(self.presets.files)
        rows = sorted(self.rows.values(), key=lambda r: (order.index(r["sampler"]), r["steps"] or 0, r["seed"]))
        attrs["reference"]["error"] = self.errors
        return to_frame(rows, attrs)


def _key(name: str, steps: int | None) -> str:
    return name if steps is None else f"{name}, {steps} steps"


def _texts(row: dict[str, Any]) -> list[str]:
    return [_written(row[name]) for name in COLUMNS]


def _written(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else repr(value)


def _parsed(lines: list[list[str]]) -> list[dict[str, Any]]:
    """The rows of lines, up to one that is damaged."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        if len(line) != len(COLUMNS):
            break
        row: dict[str, Any] = dict(zip(COLUMNS, line, strict=True))
        try:
            for name in COLUMNS[1:-1]:
                row[name] = float(row[name]) if row[name] else math.nan
            row |= {name: int(row[name]) for name in ("seed", "n")}
            row["steps"] = None if math.isnan(row["steps"]) else int(row["steps"])
        except (ValueError, OverflowError):
            break
        rows.append(row)
    return rows


def _write(run: Run, table: _Table, frame: pd.DataFrame, source: str | None) -> None:
    """What is made of all lines: parquet, the note in full, and the picture."""
    run.write_bytes(f"{table.path.stem}.parquet", frame.to_parquet(None, index=False))
    seeds, steps = sorted(set(frame["seed"].tolist())), sorted(set(frame["steps"].dropna().tolist()))
    shown = [name for name in ("default",) if name in set(frame["sampler"][frame["problem"] == ""])]
    drawn = bool(frame[["error", "frechet_distance"]].notna().any(axis=None))
    # For the page about the run, whose charts give a sampler the colour that it has in the picture.
    colours = coloured(frame, highlight=shown) if drawn else []
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
    plots.save(frontiers(frame, highlight=shown), run.directory / file)
    caption = (
        f"Error of the endpoint and Fréchet distance to {source or 'held-out data'} of {table.settings['n']} samples, "
        "against evaluations of the network and seconds. Dotted: the error of the reference, and what training data "
        "score."
    )
    run.add_picture(file, "Samplers compared", caption)
