"""Log-likelihoods of a run's data: a row for each sample, in a table that an interrupted command resumes."""

import math
import time
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig
from torch import Tensor

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data, DataInfo
from scoresde.numerics.means import independent_error, mean_and_error, shared_error
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import Progress
from scoresde.runs.blocks import Block, block_size, blocks
from scoresde.runs.chains import RunModel
from scoresde.runs.conditions import given_names, split_conditions
from scoresde.runs.directory import Run
from scoresde.runs.likelihood_settings import LikelihoodOptions, LikelihoodSettings, own_settings
from scoresde.runs.likelihood_table import LikelihoodTable, rows_of
from scoresde.runs.pictures import picture_of_likelihoods
from scoresde.runs.results import Filing, choose_name, is_of, key_of, known_tables, set_aside
from scoresde.runs.summary import LikelihoodEntry
from scoresde.runs.team import each
from scoresde.score import NetworkScore

__all__ = ["check_likelihood", "likelihood", "samples_of"]


def check_likelihood(run: Run, data: Data, options: DictConfig, prefix: str = "") -> None:
    """Reject what `likelihood` would reject, for data of the run, before there is a model.

    Args:
        run: The run.
        data: Its data.
        options: As for `likelihood`.
        prefix: Prefix of the names of options in messages.

    Raises:
        ConfigError: A wrong option.
    """
    LikelihoodOptions(run, data, options, prefix)


def likelihood(
    run: Run,
    model: RunModel,
    data: Data,
    split: str,
    n: int | None,
    options: DictConfig,
    progress: bool = True,
    filing: Filing | None = None,
) -> LikelihoodEntry:
    """Log-likelihoods of (the first n samples of) a split.

    They are appended to `likelihood-{split}.csv` a batch at a time, or where the settings are not those of the run's
    own likelihoods, to a file that is named by what differs (see `choose_name`), with an entry of its own in the
    summary. Those that are there already, of the same model, data and settings, are not computed again: a sample's
    figure depends on no other. All processes of the command share the batches (see `scoresde.runs.team`).

    Args:
        run: The run.
        model: Its model.
        data: Its data, or others in their place.
        split: Split of the data: train or test; all where others are in the place of the test data.
        n: Number of samples; all if None. An entry of more samples with the same settings stays in the summary.
        options: Options as in `conf/likelihood.yaml`; what they lack is as in the run's evaluation.
        progress: Show a progress bar.
        filing: How the result is named and stored; as `Filing()` if not given.

    Raises:
        ConfigError: A wrong option, or a name under which there are likelihoods with other settings.
    """
    filing = filing or Filing()
    raw, _ = samples_of(data, split, n, filing)
    conditions = split_conditions(model, data, split)
    known = LikelihoodSettings(run, model, data, split, options)
    stem = _stem(run, model, data, split, options, known.settings, filing)
    with run.alone(stem):
        table = LikelihoodTable(run.directory / f"{stem}.csv", known.unit, known.settings)
        # The file of an earlier version stays as it is until there are more rows.
        if table.rows and not table.older:
            table.resume()
        began, reused = time.perf_counter(), min(len(table.rows), len(raw))
        size = block_size(len(raw), options.batch_size)
        missing = blocks(len(raw), size, conditions, raw, done=len(table.rows))
        rows_of_block = _Rows(model, DataInfo(data.name, data.shape, data.transform), _arguments(model, options, known))
        with Progress(len(raw), f"likelihood, {split}", "sample", reused, shown=progress) as bar:
            for rows in each(rows_of_block, missing):
                table.add(rows)
                bar.update(len(rows))
                mean, error = mean_and_error(*(table.column(c, len(raw)) for c in (known.unit, "solver_stderr")))
                bar.note(f"{mean:.4f} ± {error:.4f} {known.unit.replace('_per_', '/')}")
        seconds = time.perf_counter() - began
        entry = _entry(table, known, len(raw), {"step": run.step(), "seconds": seconds, "reused": reused}, filing)
        if _store(run, stem, entry, known, filing) and filing.source is None and stem == _own_name(split):
            values = table.column(known.unit, len(raw))
            picture_of_likelihoods(run, data, raw, values, split, known.unit, given_names(model))
        return entry


def _own_name(split: str) -> str:
    return f"likelihood-{split}"


def samples_of(data: Data, split: str, n: int | None, filing: Filing) -> tuple[Tensor, Tensor | None]:
    """The first n samples of a split in raw units, all if None, and the labels of the split.

    Raises:
        ConfigError: Another split, or a wrong n.
    """
    if split not in (("train", "test") if filing.source is None else ("train", "test", "all")):
        raise ConfigError(f"split is {split!r}, expected train or test{', or all' if filing.source else ''}")
    raw, labels = (data.train, data.train_labels) if split == "train" else (data.test, data.test_labels)
    for problem in option_problems("likelihood", {"n": n}):
        raise ConfigError(problem)
    return raw[: len(raw) if n is None else min(n, len(raw))], labels


def _stem(
    run: Run,
    model: RunModel,
    data: Data,
    split: str,
    options: DictConfig,
    settings: dict[str, Any],
    filing: Filing,
) -> str:
    """The name under which likelihoods with these settings are stored; the run's own make room for others."""
    own_name = _own_name(split)
    known = known_tables(run.directory, own_name)
    if filing.own:
        if own_name in known and known[own_name] != settings:
            set_aside(run, own_name, known[own_name], settings)
        return own_name
    default = None if filing.first else own_settings(run, model, data, split, options)
    if filing.source is not None:
        default = {**(default or settings), "data_hash": None}
    replacing = filing.overwrite and (filing.source is None or bool(filing.name))
    return choose_name(own_name, known, settings, default, given=filing.name, overwrite=replacing)


def _arguments(model: RunModel, options: DictConfig, known: LikelihoodSettings) -> dict[str, Any]:
    """Arguments of the likelihoods of all samples, but for their conditions."""
    common: dict[str, Any] = {"seed": options.seed}
    if isinstance(model, DiscreteChainModel):
        common["draws"] = options.draws
    else:
        common |= {"divergence": known.divergence, "tol": known.settings["tol"]}
        common["corrected"] = known.settings.get("corrected", False)
    if isinstance(model, NetworkScore) and known.discrete:
        common["dequantisation"] = known.dequantisation
        common |= {name: options[name] for name in ("decoder", "draws", "bound", "elbo_draws")}
    if known.settings.get("chain_draws"):
        common["chain_draws"] = known.chain_draws
    return common


@dataclass(frozen=True)
class _Rows:
    """The rows of the table for blocks of samples, in this process or in another.

    Attributes:
        model: The model.
        data: What is known of the data set of the samples.
        common: Arguments of the likelihoods of all samples, but for their conditions.
    """

    model: RunModel
    data: DataInfo
    common: dict[str, Any]

    def __call__(self, block: Block) -> list[list[float]]:
        assert block.start is not None
        device = self.model.device
        cond = {name: values.to(device) for name, values in block.cond.items()}
        return rows_of(self.model, self.data, block.start.to(device), block.first, {**self.common, **cond})


def _entry(
    table: LikelihoodTable, known: LikelihoodSettings, n: int, facts: dict[str, Any], filing: Filing
) -> LikelihoodEntry:
    """The entry of the summary, from the first n rows of the table; `facts` has step, seconds and reused."""
    values, probes, draws = (table.column(name, n) for name in (known.unit, "stderr", "stderr_dequantisation"))
    solver = table.column("solver_stderr", n)
    mean, error = mean_and_error(values, solver)
    discrete, settings = known.discrete, known.settings
    drawn = discrete and settings["draws"] > 1 and "chain" not in settings
    entry = {
        **_plain(settings),
        **({} if filing.source is None else {"source": filing.source}),
        "step": facts["step"],
        "n": n,
        "file": table.path.name,
        "bits_per_dim": mean if discrete else None,
        "nats": -mean * known.size * math.log(2) if discrete else mean,
        "stderr": error if n > 1 else None,
        "stderr_probes": independent_error(probes),
        "stderr_dequantisation": independent_error(draws) if drawn else None,
        "stderr_solver": shared_error(solver) if bool(solver.isfinite().any()) else None,
        "nfe": table.column("nfe", n).mean().item(),
        "divergences": table.column("divergences", n).mean().item(),
        "seconds": facts["seconds"],
        "reused": facts["reused"],
    }
    if discrete and settings.get("elbo_draws"):
        lower, lower_error = mean_and_error(table.column("elbo", n))
        entry |= {"elbo": lower, "stderr_elbo": lower_error if n > 1 else None}
    if settings.get("chain_draws"):
        lower, lower_error = mean_and_error(table.column("by_chain", n))
        entry |= {"by_chain": lower, "stderr_by_chain": lower_error if n > 1 else None}
    entry["stderr_data"] = _error_of_data(entry)
    return cast(LikelihoodEntry, entry)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as they stand in the summary."""
    return {key: value for key, value in settings.items() if key != "unit"}


def _error_of_data(entry: dict[str, Any]) -> float | None:
    """The standard error without what probes, dequantisation and the solver add: that of the choice of data."""
    if entry["n"] < 2:
        return None
    others = (entry[f"stderr_{name}"] or 0.0 for name in ("probes", "dequantisation", "solver"))
    return math.sqrt(max(entry["stderr"] ** 2 - sum(error**2 for error in others), 0.0))


def _store(run: Run, stem: str, entry: LikelihoodEntry, known: LikelihoodSettings, filing: Filing) -> bool:
    """Put an entry into the summary, unless one of more samples with the same settings is there; whether it was."""
    stored = run.summary().entry(key_of(stem))
    same = bool(stored) and is_of(stored, _plain(known.settings))
    if same and stored.get("n", 0) >= entry["n"] and not filing.overwrite:
        return False
    run.add_to_summary(**{key_of(stem): entry})
    return True
