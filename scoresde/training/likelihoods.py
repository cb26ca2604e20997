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
from tqdm.auto import tqdm

from scoresde.data import Data
from scoresde.likelihood import bits_per_dim, log_likelihood, solver_error
from scoresde.likelihood.density import mean_and_error, tolerance_of
from scoresde.likelihood.dequantisation import Dequantisation, Uniform
from scoresde.score import NetworkScore
from scoresde.training.config import ConfigError
from scoresde.training.dequantising import FILE
from scoresde.training.pictures import has_classes, picture_of_likelihoods
from scoresde.training.run import Run
from scoresde.training.table import ResumableTable

__all__ = ["likelihood"]

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
) -> dict[str, Any]:
    """Log-likelihoods of (the first n samples of) a split.

    They are appended to `likelihood-{split}.csv` a batch at a time, or with a name to `likelihood-{split}-{name}.csv`,
    and their mean then is not that of the run. Those that are there already, of the same model and settings, are not
    computed again: a sample's figure depends on no other. Several processes take batches in turn, and the first of them
    writes.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"split is {split!r}, expected train or test")
    raw, labels = (data.test, data.test_labels) if split == "test" else (data.train, data.train_labels)
    if n is not None and (not isinstance(n, int) or n < 1):
        raise ConfigError(f"n is {n!r}, expected a whole number of at least 1, or null for all")
    n = len(raw) if n is None else min(n, len(raw))
    # Before a file of other settings is begun anew.
    if options.tol is not None and not (isinstance(options.tol, int | float) and options.tol > 0):
        raise ConfigError(f"tol is {options.tol!r}, expected a positive number of nats, or null for 1e-4 per dimension")
    for option, least in (("draws", 1), ("batch_size", 1), ("elbo_draws", 0)):
        if not isinstance(options[option], int) or options[option] < least:
            raise ConfigError(f"{option} is {options[option]!r}, expected a whole number of at least {least}")
    divergence = run.make("evaluation.divergence")
    dequantisation = _dequantisation(run)
    size = math.prod(data.shape)
    tol = tolerance_of(options.tol, None, None, size).nats
    discrete = data.transform.levels is not None
    if not discrete and not isinstance(dequantisation, Uniform):
        raise ConfigError(f"dequantisation is {dequantisation.name}, but {data.name} is continuous: leave it out")
    for option, known in (("decoder", ("rounding", "gaussian")), ("bound", ("average", "importance"))):
        if options[option] not in known:
            raise ConfigError(f"{option} is {options[option]!r}, expected {' or '.join(map(repr, known))}")
    unit = "bits_per_dim" if discrete else "nats"
    settings: dict[str, Any] = {
        "split": split,
        "unit": unit,
        "divergence": repr(divergence.for_shape(data.shape)),
        "tol": tol,
        **({"draws": options.draws, "dequantisation": dequantisation.name} if discrete else {}),
        **({"decoder": options.decoder, "bound": options.bound} if discrete else {}),
        **({"digest": dequantisation.digest} if discrete and dequantisation.digest else {}),
        "t_min": model.sde.t_min,
        "seed": options.seed,
        "elbo_draws": options.elbo_draws,
        "model": run.fingerprint(),
    }
    common: dict[str, Any] = {"divergence": divergence, "tol": tol, "seed": options.seed}
    if discrete:
        common |= {
            "dequantisation": dequantisation,
            "decoder": options.decoder,
            "draws": options.draws,
            "bound": options.bound,
            "elbo_draws": options.elbo_draws,
        }
    rank, count = (0, 1) if processes is None else (processes.process_index, processes.num_processes)
    stem = "-".join(filter(None, ("likelihood", split, name)))
    with run.alone(stem) if rank == 0 else nullcontext():
        table = _Table(run.directory / f"{stem}.csv", unit, settings)
        if rank == 0 and table.rows:
            table.resume()
        began, here = time.perf_counter(), len(table.rows)
        size_of_turn = count * options.batch_size
        silent = not progress or rank > 0
        with tqdm(total=n, initial=min(here, n), disable=silent, desc=f"likelihood, {split}", unit="sample") as bar:
            for turn in range(here, n, size_of_turn):
                start = min(turn + rank * options.batch_size, n)
                stop = min(start + options.batch_size, n)
                if has_classes(model):
                    assert labels is not None
                    common["labels"] = labels[start:stop].to(model.device)
                some = raw[start:stop].to(model.device)
                rows = _rows(model, data, some, start, common) if len(some) else []
                if count > 1:
                    rows = [row for part in gather_object([rows]) for row in part]
                table.add(rows, write=rank == 0)
                bar.update(len(rows))
                mean, error = mean_and_error(table.column(unit, n))
                bar.set_postfix_str(f"{mean:.4f} ± {error:.4f} {unit.replace('_per_', '/')}")
        values, probes, draws = (table.column(column, n) for column in (unit, "stderr", "stderr_dequantisation"))
        mean, error = mean_and_error(values)
        entry = {
            **{key: value for key, value in settings.items() if key not in ("unit", "model", "seed", "digest")},
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
        if name:
            run.add_to_summary(**{stem: entry})
            return entry
        picture_of_likelihoods(run, data, raw[:n], values, split, unit)
        run.add_to_summary(**{"likelihood" if split == "test" else "likelihood_train": entry})
        return entry


def _dequantisation(run: Run) -> Dequantisation:
    """That of the configuration; what was trained is the run's own if no file is given."""
    own = OmegaConf.select(run.config, "evaluation.dequantisation.path", default="") is None
    return run.make("evaluation.dequantisation", **({"path": str(run.directory / FILE)} if own else {}))


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
