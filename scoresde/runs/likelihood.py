"""Log-likelihoods of a run's data: one line for each sample, in a file that an interrupted command goes on from."""

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde.config.targets import instantiate
from scoresde.data import Data
from scoresde.likelihood import bits_per_dim, log_likelihood, solver_error
from scoresde.likelihood.density import mean_and_error
from scoresde.likelihood.dequantisation import Dequantisation, Uniform
from scoresde.likelihood.options import FlowOptions
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import Progress
from scoresde.runs.dequantise import FILE
from scoresde.runs.directory import Run
from scoresde.runs.pictures import picture_of_likelihoods
from scoresde.runs.results import choose_name, is_of, key_of, known_tables, set_aside
from scoresde.score import NetworkScore
from scoresde.storage.limits import check_steps
from scoresde.storage.table import ResumableTable

__all__ = ["check_likelihood", "likelihood"]

_CHECKED = 16  # samples, the first, of which the solver's error is measured
_COLUMNS = ("stderr", "stderr_dequantisation", "nfe", "divergences", "elbo", "stderr_elbo", "solver_error")


def likelihood(
    run: Run,
    model: NetworkScore,
    data: Data,
    split: str,
    n: int | None,
    options: DictConfig,
    progress: bool = True,
    processes: PartialState | None = None,
    name: str = "",
    *,
    source: str | None = None,
    overwrite: bool = False,
    own: bool = False,
    first: bool = True,
) -> dict[str, Any]:
    """Log-likelihoods of (the first n samples of) a split.

    They are appended to `likelihood-{split}.csv` a batch at a time, or where the settings are not those of the run's
    own likelihoods, to a file that is named by what differs (see `choose_name`), with an entry of its own in the
    summary. Those that are there already, of the same model, data and settings, are not computed again: a sample's
    figure depends on no other. Several processes take batches in turn, and the first of them writes.

    Args:
        run: the run.
        model: its model.
        data: its data, or others in their place.
        split: train or test; all where others are in the place of the test data.
        n: how many; all if None. An entry of more samples with the same settings stays in the summary.
        options: as in `conf/likelihood.yaml`; what it lacks is as in the run's evaluation.
        progress: show a progress bar.
        processes: those that share the work.
        name: a further name to store them under, instead of one made of the settings.
        source: the file that the data are from, for the summary, if they are not the run's.
        overwrite: replace the likelihoods of that name, or the run's own.
        own: they are the run's own likelihoods; those that are there with other settings get a further name.
        first: where there are none they are the run's own, whatever their settings.

    Raises:
        ConfigError: a wrong option, or a name under which there are likelihoods with other settings.
    """
    if split not in (("train", "test") if source is None else ("train", "test", "all")):
        raise ConfigError(f"split is {split!r}, expected train or test{', or all' if source else ''}")
    raw, labels = (data.train, data.train_labels) if split == "train" else (data.test, data.test_labels)
    for problem in option_problems("likelihood", {"n": n}):
        raise ConfigError(problem)
    n = len(raw) if n is None else min(n, len(raw))
    conditional = model.classes is not None
    if conditional and labels is None:
        raise ConfigError(f"the model is conditional on labels, and {data.name} has none: give data with labels")
    found = _Settings(run, model, data, split, options)
    unit, settings, discrete = found.unit, found.settings, found.discrete
    size = math.prod(data.shape)
    common: dict[str, Any] = {"divergence": found.divergence, "tol": settings["tol"], "seed": options.seed}
    if discrete:
        common |= {
            "dequantisation": found.dequantisation,
            "decoder": options.decoder,
            "draws": options.draws,
            "bound": options.bound,
            "elbo_draws": options.elbo_draws,
        }
    rank, count = (0, 1) if processes is None else (processes.process_index, processes.num_processes)
    stem = own_name = f"likelihood-{split}"
    known = known_tables(run.directory, own_name)
    if own:
        if own_name in known and known[own_name] != settings:
            set_aside(run, own_name, known[own_name], settings)
    else:
        default = None if first else _own_settings(run, model, data, split, options)
        if source is not None:
            default = {**(default or settings), "data_hash": None}
        replacing = overwrite and (source is None or bool(name))
        stem = choose_name(own_name, known, settings, default, given=name, overwrite=replacing)
    with run.alone(stem) if rank == 0 else nullcontext():
        table = _Table(run.directory / f"{stem}.csv", unit, settings)
        if rank == 0 and table.rows:
            table.resume()
        began, here = time.perf_counter(), len(table.rows)
        size_of_turn = count * options.batch_size
        silent = not progress or rank > 0
        with Progress(n, f"likelihood, {split}", "sample", min(here, n), shown=not silent) as bar:
            for turn in range(here, n, size_of_turn):
                start = min(turn + rank * options.batch_size, n)
                stop = min(start + options.batch_size, n)
                if conditional:
                    assert labels is not None
                    common["labels"] = labels[start:stop].to(model.device)
                some = raw[start:stop].to(model.device)
                rows = _rows(model, data, some, start, common) if len(some) else []
                if count > 1:
                    rows = [row for part in gather_object([rows]) for row in part]
                table.add(rows, write=rank == 0)
                bar.update(len(rows))
                mean, error = mean_and_error(table.column(unit, n))
                bar.note(f"{mean:.4f} ± {error:.4f} {unit.replace('_per_', '/')}")
        values, probes, draws = (table.column(column, n) for column in (unit, "stderr", "stderr_dequantisation"))
        mean, error = mean_and_error(values)
        plain = {key: value for key, value in settings.items() if key != "unit"}
        entry = {
            **plain,
            **({} if source is None else {"source": source}),
            "step": run.step(),
            "n": n,
            "file": table.path.name,
            "bits_per_dim": mean if discrete else None,
            "nats": -mean * size * math.log(2) if discrete else mean,
            "stderr": error if n > 1 else None,
            "stderr_probes": probes.square().sum().sqrt().item() / n,
            "stderr_dequantisation": draws.square().sum().sqrt().item() / n if discrete and options.draws > 1 else None,
            "nfe": table.column("nfe", n).mean().item(),
            "divergences": table.column("divergences", n).mean().item(),
            "seconds": time.perf_counter() - began,
            "reused": min(here, n),
        }
        if discrete and options.elbo_draws:
            lower, lower_error = mean_and_error(table.column("elbo", n))
            entry |= {"elbo": lower, "stderr_elbo": lower_error if n > 1 else None}
        entry |= _error_parts(entry, n)
        entry["solver_error"] = table.column("solver_error", min(n, _CHECKED)).square().mean().sqrt().item()
        if rank:
            return entry
        stored = run.summary().get(key_of(stem))
        if stored is not None and is_of(stored, plain) and stored.get("n", 0) >= n and not overwrite:
            return entry
        run.add_to_summary(**{key_of(stem): entry})
        if stem == own_name and source is None:
            picture_of_likelihoods(run, data, raw[:n], values, split, unit, conditional)
        return entry


class _Options:
    """The options of likelihoods, checked: each by itself, and against the data.

    Raises:
        ConfigError: a wrong option.
    """

    def __init__(self, run: Run, data: Data, options: DictConfig, prefix: str = "") -> None:
        plain: Any = OmegaConf.to_container(options, resolve=True)
        for problem in option_problems("likelihood", plain, prefix=prefix):
            raise ConfigError(problem)
        self.divergence = _made(run, options, "divergence", prefix)
        self.dequantisation: Dequantisation = _made(run, options, "dequantisation", prefix)
        self.discrete = data.transform.levels is not None
        quantisation = f"{prefix}dequantisation is {self.dequantisation.name}"
        if not self.discrete and not isinstance(self.dequantisation, Uniform):
            raise ConfigError(f"{quantisation}, but {data.name} is continuous: leave it out")
        if options.decoder == "rounding" and not self.dequantisation.within:
            raise ConfigError(
                f"{quantisation}, which leaves the cell of a value, as {prefix}decoder=rounding does not allow: "
                f"take {prefix}decoder=gaussian"
            )
        try:
            self.dequantisation.check(data.shape, data.transform.levels)
            self.divergence.for_shape(data.shape)
            for name in ("draws", "elbo_draws"):
                check_steps(options[name], f"{prefix}{name}")
        except ValueError as error:
            raise ConfigError(str(error)) from error


def check_likelihood(run: Run, data: Data, options: DictConfig, prefix: str = "") -> None:
    """Refuse what `likelihood` would refuse, for data of the run, before there is a model.

    Args:
        run: the run.
        data: its data.
        options: as for `likelihood`.
        prefix: of the names of options in messages.

    Raises:
        ConfigError: a wrong option.
    """
    _Options(run, data, options, prefix)


class _Settings(_Options):
    """The settings that likelihoods depend on."""

    def __init__(self, run: Run, model: NetworkScore, data: Data, split: str, options: DictConfig) -> None:
        super().__init__(run, data, options)
        self.unit = "bits_per_dim" if self.discrete else "nats"
        self.settings: dict[str, Any] = {
            "split": split,
            "unit": self.unit,
            "conditional": model.classes is not None,
            "data": data.name,
            "divergence": repr(self.divergence.for_shape(data.shape)),
            "tol": FlowOptions(tol=options.tol).tolerance(math.prod(data.shape)).nats,
            **({"draws": options.draws, "dequantisation": self.dequantisation.name} if self.discrete else {}),
            **({"decoder": options.decoder, "bound": options.bound} if self.discrete else {}),
            **({"digest": self.dequantisation.digest} if self.discrete and self.dequantisation.digest else {}),
            "t_min": model.sde.t_min,
            "seed": options.seed,
            "elbo_draws": options.elbo_draws,
            "model": run.fingerprint(),
            "data_hash": data.fingerprint(),
        }


def _own_settings(run: Run, model: NetworkScore, data: Data, split: str, options: DictConfig) -> dict[str, Any]:
    """The settings of the likelihoods that training computes; empty where they cannot be had."""
    # The configuration of an older version has not all options.
    evaluation = OmegaConf.create({**options, **run.config.get("evaluation", {})})
    try:
        return _Settings(run, model, data, split, evaluation).settings
    except ConfigError:
        return {}


def _made(run: Run, options: DictConfig, key: str, prefix: str) -> Any:
    """The object of an option, or of the run's evaluation; a trained dequantisation is the run's own without a file."""
    config, path = (options, key) if key in options and not prefix else (run.config, f"evaluation.{key}")
    own = OmegaConf.select(config, f"{path}.path", default="") is None
    return instantiate(config, path, run.allow, **({"path": str(run.directory / FILE)} if own else {}))


def _error_parts(entry: dict[str, Any], n: int) -> dict[str, float | None]:
    """The standard error without what random probes and dequantisation add: that of the choice of data."""
    if n < 2:
        return {"stderr_data": None}
    others = entry["stderr_probes"] ** 2 + (entry["stderr_dequantisation"] or 0.0) ** 2
    return {"stderr_data": math.sqrt(max(entry["stderr"] ** 2 - others, 0.0))}


def _rows(model: NetworkScore, data: Data, raw: Tensor, first: int, common: dict[str, Any]) -> list[list[float]]:
    """A line for each sample: its value and `_COLUMNS`."""
    if data.transform.levels is None:
        out = log_likelihood(model, data.transform.encode(raw), first=first, **common)
        values = out.log_prob + data.transform.log_det(data.shape)
        none = torch.full_like(values, math.nan)
        columns = [values, out.stderr, torch.zeros_like(values), out.nfe, out.divergences, none, none]
        nats = 1.0
    else:
        bits = bits_per_dim(model, raw, data.transform, first=first, **common)
        none = torch.full_like(bits.bits, math.nan)
        lower = [none if v is None else v for v in (bits.elbo, bits.elbo_stderr)]
        columns = [bits.bits, bits.stderr, bits.stderr_dequantisation, bits.nfe, bits.divergences, *lower]
        nats = math.prod(data.shape) * math.log(2)
    checked = min(max(_CHECKED - first, 0), len(raw))
    errors = torch.full_like(columns[0], math.nan)
    if checked:
        x, labels = data.transform.encode(raw[:checked]), common.get("labels")
        cond: dict[str, Any] = {} if labels is None else {"labels": labels[:checked]}
        found = solver_error(model, x, tol=common["tol"], seed=common["seed"], first=first, **cond)
        errors[:checked] = found / nats
    columns.append(errors)
    return list(map(list, zip(*(c.tolist() for c in columns), strict=True)))


class _Table(ResumableTable):
    """The likelihoods: a row of numbers for each sample, in their order."""

    def __init__(self, path: Path, unit: str, settings: dict[str, Any]) -> None:
        self.names = (unit, *_COLUMNS)
        super().__init__(path, ("index", *self.names), settings)
        self.rows: list[list[float]] = []
        for line in self.lines:
            try:
                index, *values = map(float, line)
            except ValueError:
                break
            if index != len(self.rows) or len(values) != len(self.names):
                break
            self.rows.append(values)

    def add(self, rows: list[list[float]], write: bool) -> None:
        """Take rows in, and `write` them into the file.

        The file is begun anew with the first of them, without rows that cannot be read, or those of other settings: the
        latter are lost, and until then settings may be refused.
        """
        if write:
            if not self.begun:
                self.resume()
            self.append(_texts(rows, len(self.rows)))
        self.rows += rows

    def resume(self) -> None:
        """Begin the file anew with the rows that are known."""
        self.begin(_texts(self.rows, 0))

    def column(self, name: str, n: int) -> Tensor:
        """`(n,)` values of a column."""
        place = self.names.index(name)
        return torch.tensor([row[place] for row in self.rows[:n]], dtype=torch.float64)


def _texts(rows: list[list[float]], first: int) -> list[list[str]]:
    return [[str(index), *map(repr, row)] for index, row in enumerate(rows, first)]
