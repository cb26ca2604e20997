"""Posterior samples of measurements under a run's model, in its directory, kept as they are drawn."""

import csv
import io
import json
import math
import time
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.inverse import (
    LinearOperator,
    Measurement,
    Method,
    Problem,
    central_interval,
    check_adjoint,
)
from scoresde.numerics.means import mean_and_error
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import Progress
from scoresde.runs.blocks import block_size
from scoresde.runs.directory import Run, check_name
from scoresde.runs.pictures.restorations import picture_of_restorations
from scoresde.runs.restore_input import RestoreInput, measured
from scoresde.runs.restorer import Restorer, known_of, parts
from scoresde.runs.results import differences, digest_of, is_of
from scoresde.runs.team import each
from scoresde.score import NetworkScore
from scoresde.storage.files import remove_leftovers
from scoresde.storage.limits import check_memory, check_unpacked

__all__ = ["FIGURES", "FOLDER", "Restoration", "restore_run", "restored_name"]

FOLDER = "restored"
_NOTE = "note"  # the array of a file that says how its samples were drawn, as JSON
FIGURES = ("nfe", "products", "seconds", "psnr_of_mean", "psnr", "coverage", "residual")
"""The columns of the table: costs, and what `scoresde.inverse` measures of the samples of each measurement."""
_EVERY = 10.0  # seconds after which samples are written, if writing them takes a small part of that
_SHARE = 0.1  # of the time, that writing may take


@dataclass(frozen=True)
class Restoration:
    """A choice of posterior samples.

    Attributes:
        problem: What is measured, and with which noise.
        described: A text that two problems share exactly when they are the same.
        method: How the posterior is sampled.
        given: What is measured, or measurements.
        n: Number of samples for each measurement.
        steps: Number of steps of the method.
        seed: Seed of the noise of measurements and of samples.
        batch_size: Samples to work on at once, which change nothing in them.
    """

    problem: Problem
    described: str
    method: Method
    given: RestoreInput
    n: int = 8
    steps: int = 100
    seed: int = 0
    batch_size: int = 256

    def settings(self, run: Run) -> dict[str, Any]:
        """The settings that the samples depend on, whatever the number of measurements."""
        return {
            "problem": self.described,
            "method": repr(self.method),
            "steps": self.steps,
            "n": self.n,
            "seed": self.seed,
            "input": self.given.digest,
            "model": run.fingerprint(),
        }


def restored_name(run: Run, name: str, settings: dict[str, Any], overwrite: bool = False) -> str:
    """The name under which samples are stored: with a digest, if those of the name have other settings."""
    known = _read(_path(run, name))
    if known is None or overwrite or is_of(known.note, settings):
        return name
    return f"{name}-{digest_of(settings)}"


def restore_run(
    run: Run,
    model: NetworkScore,
    data: Data | DataInfo,
    choice: Restoration,
    *,
    name: str,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw posterior samples, and write them with a table and a figure.

    The samples of a measurement depend on no other, so those that are there already, of the same settings, are not
    drawn again, and what an interruption leaves is kept.

    Args:
        run: The run.
        model: Its model, which knows its data (`model.info`).
        data: Its data, or what is known of them.
        choice: Which samples are drawn.
        name: Name of the files in `restored/`.
        overwrite: Replace samples of the same name with other settings.
        progress: Show a progress bar.

    Returns:
        The entry of the summary: settings, costs, and the figures of the samples with their standard errors.

    Raises:
        ConfigError: There are samples of this name with other settings, a wrong option, or a problem that is none for
            the method, before anything is drawn.
    """
    plain = {"n": choice.n, "steps": choice.steps, "seed": choice.seed, "batch_size": choice.batch_size}
    for problem in option_problems("restore", plain):
        raise ConfigError(problem)
    count = len(choice.given)
    check_memory(8 * count * choice.n * math.prod(data.shape), f"n={choice.n} samples of {count} measurements")
    check_name(name)
    run.check_writable(FOLDER)
    measurement, x = measured(choice.given, choice.problem, data, choice.seed)
    choice.problem.operator.to(model.device)
    measurement = Measurement(measurement.problem, measurement.y.to(model.device))
    try:
        if isinstance(measurement.operator, LinearOperator):
            check_adjoint(measurement.operator)
        choice.method.check(model, measurement)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    settings = choice.settings(run)
    with run.alone(f"{FOLDER}-{name}"):
        remove_leftovers(run.directory / FOLDER, f"{escape(name)}.npz")
        known = None if overwrite else _read(_path(run, name))
        if known is not None and not is_of(known.note, settings):
            raise ConfigError(
                f"{_path(run, name)} is there already, {differences(known.note, settings)}: give another name, or "
                "overwrite=true to replace it"
            )
        drawn = _Drawn(run, name, data, choice, settings, known)
        reused = min(len(drawn), count)
        drawn.fill(model, measurement, x, progress)
        entry = drawn.entry(count)
        if reused < count or run.summary().entry(f"{FOLDER}-{name}").get("count") != count:
            run.add_to_summary(**{f"{FOLDER}-{name}": entry})
            text = _caption(entry)
            picture = f"{FOLDER}/{name}.png"
            picture_of_restorations(run, data, picture, measurement, choice.given.truth, drawn.tensors(count), text)
    return {**entry, "reused": reused}


def _caption(entry: dict[str, Any]) -> str:
    return (
        f"{entry['n']} samples of what was measured, by {entry['method']} in {entry['steps']} steps, {entry['nfe']} "
        f"evaluations of the network each, for {entry['problem']}, seed {entry['seed']}."
    )


@dataclass
class _Stored:
    """What a file of samples holds: its note, samples `(B, n, ...)`, means, deviations and figures."""

    note: dict[str, Any] | None
    arrays: tuple[np.ndarray, ...]


def _path(run: Run, name: str) -> Path:
    return run.directory / FOLDER / f"{name}.npz"


def _read(path: Path) -> _Stored | None:
    """The content of a file of samples; None if there is none. The note is None in one that cannot be read."""
    if not path.is_file():
        return None
    try:
        check_unpacked(path, str(path))
        with np.load(path, allow_pickle=False) as file:
            note = json.loads(str(file[_NOTE]))
            arrays = [file[key] for key in ("samples", "mean", "std", "figures")]
        if isinstance(note, dict) and len({len(array) for array in arrays}) == 1:
            return _Stored(note, tuple(arrays))
    except Exception:  # whatever a damaged or foreign file makes numpy and zipfile raise
        pass
    return _Stored(None, ())


class _Drawn:
    """The samples that there are, by measurement: those of a file, and those that are drawn from now on.

    Args:
        run: The run.
        name: Name of the file in `restored/`.
        data: The run's data, or what is known of them.
        choice: Which samples are drawn.
        settings: What they depend on.
        known: Content of the file, if there is one.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        data: Data | DataInfo,
        choice: Restoration,
        settings: dict[str, Any],
        known: _Stored | None,
    ) -> None:
        self.run, self.name, self.data, self.choice, self.settings = run, name, data, choice, settings
        self._parts = [] if known is None else [known.arrays]
        self._new, self._written, self._took = False, time.perf_counter(), 0.0

    def __len__(self) -> int:
        return sum(len(part[0]) for part in self._parts)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Samples, means, standard deviations and figures of all measurements that are done."""
        joined = tuple(np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        self._parts = [joined]
        return joined

    def tensors(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, means and standard deviations of the first measurements."""
        samples, mean, std, _ = (torch.from_numpy(array[:count]) for array in self.arrays())
        return samples, mean, std

    def fill(self, model: NetworkScore, measurement: Measurement, x: Tensor | None, progress: bool) -> None:
        """Draw what is missing, a few measurements at a time, and write what there is, also if interrupted."""
        count, choice = len(measurement), self.choice
        size = max(1, block_size(count * choice.n, choice.batch_size) // choice.n)
        done = min(len(self), count)
        settings = (choice.n, choice.steps, choice.seed, choice.batch_size)
        restorer = Restorer(model, choice.method, known_of(self.data), *settings)
        missing = parts(measurement, choice.given, x, size, done)
        try:
            with Progress(count, "restoring", "measurement", done, shown=progress) as bar:
                for arrays in each(restorer, missing):
                    self._parts.append(arrays)
                    self._new = True
                    bar.update(len(arrays[0]))
                    waited = time.perf_counter() - self._written
                    if len(self) < count and waited > max(_EVERY, self._took / _SHARE):
                        self.write(measurement.y)
        finally:
            if self._new:
                self.write(measurement.y)

    def write(self, y: Tensor) -> None:
        """Write the samples and the table of the measurements that are done."""
        began = time.perf_counter()
        samples, mean, std, figures = self.arrays()
        given, done = self.choice.given, len(samples)
        arrays: dict[str, Any] = {name: values[:done].cpu().numpy() for name, values in given.cond.items()}
        if given.truth is not None:
            arrays["x"] = given.truth[:done].numpy()
        arrays |= {"y": y[:done].cpu().numpy(), "samples": samples, "mean": mean, "std": std, "figures": figures}
        self.run.write_npz(f"{FOLDER}/{self.name}.npz", **arrays, **{_NOTE: np.array(json.dumps(self.settings))})
        buffer = io.StringIO()
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(("index", *FIGURES))
        table.writerows([index, *map(repr, row)] for index, row in enumerate(figures.tolist()))
        self.run.write_text(f"{FOLDER}/{self.name}.csv", buffer.getvalue())
        self._new, self._written = False, time.perf_counter()
        self._took = self._written - began

    def entry(self, count: int) -> dict[str, Any]:
        """The entry of the summary, of the first measurements."""
        figures = torch.from_numpy(self.arrays()[3][:count])
        columns = dict(zip(FIGURES, figures.T, strict=True))
        nfe, products, seconds = (columns.pop(name) for name in ("nfe", "products", "seconds"))
        entry: dict[str, Any] = {
            **self.settings,
            "source": self.choice.given.source,
            "count": count,
            "step": self.run.step(),
            "nfe": int(nfe.max()),
            "products": int(products.max()),
            "seconds": float(seconds.sum()),
        }
        for name, values in columns.items():
            if bool(values.isfinite().all()):
                value, error = mean_and_error(values)
                entry[name] = {"value": value, "stderr": error if count > 1 else None}
        if "coverage" in entry:
            entry["coverage"]["expected"] = central_interval(self.choice.n)[1]
        return entry
