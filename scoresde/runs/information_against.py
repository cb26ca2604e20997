"""A run against another of the same data: where in noise either is better, and how far their densities are apart.

On held-out data the difference of the errors of denoising is that of the log-densities. On samples of the first run it
is the divergence of its density from the other's, which the difference of the scores gives as well.
`information-against-OTHER.csv` has the rows of held-out data, `information-against-OTHER-samples.csv` those of samples,
and the JSON file beside the first the results.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from scoresde.information import kl_divergence
from scoresde.information.paths import common_strata
from scoresde.numerics.paired import PairedDifference
from scoresde.options.errors import ConfigError
from scoresde.progress import Progress
from scoresde.runs.blocks import block_size
from scoresde.runs.conditions import refuse_others
from scoresde.runs.directory import Run
from scoresde.runs.information_results import estimate_of, finite, per_unit
from scoresde.runs.information_table import band_edges, band_names, dequantised, in_bands
from scoresde.runs.labels import labels_of
from scoresde.runs.likelihood import samples_of
from scoresde.runs.paired import Contender, as_file_name, check_alike
from scoresde.runs.pictures.drawing import plots, save
from scoresde.runs.results import Filing, identity_of, name_for_weights
from scoresde.runs.sample_table import SampleTable
from scoresde.runs.team import each
from scoresde.sampling import Sampler
from scoresde.score import NetworkScore

__all__ = ["check_against", "information_against", "runs_at"]

_WHY = "against compares runs on the same samples"


def check_against(contenders: list[Contender], split: str, n: int | None) -> None:
    """Reject other runs that are not of the data of the first, or know no noise level that it knows.

    Args:
        contenders: The run, and at least one other.
        split: Split of the data.
        n: Number of samples; all if None.

    Raises:
        ConfigError: What differs, by the names of both runs.
    """
    for contender in contenders:
        refuse_others(contender.model, "information")
    check_alike(contenders, split, n, Filing(), _WHY)
    first = contenders[0]
    for other in contenders[1:]:
        try:
            common_strata([first.model, other.model], 4)
        except ValueError as error:
            raise ConfigError(f"{first.name} and {other.name}: {error}") from error


def information_against(
    first: Contender, other: Contender, split: str, options: DictConfig, sampler: Sampler
) -> tuple[str, dict[str, Any]]:
    """Compare a run with another one, by noise level.

    Args:
        first: The run, whose directory the results go into.
        other: The other run.
        split: Split of the data.
        options: Options as in `conf/information.yaml`.
        sampler: Sampler of the first run's samples.

    Returns:
        The name of the table, its note and its figure, and the content of the note; where that stayed as it was, since
        it is of more samples, their number is `kept`.

    Raises:
        ConfigError: A name under which there is something else.
    """
    run, data = first.run, first.data
    raw, labels = samples_of(data, split, options.n, Filing())
    labels = labels if first.model.classes is not None else None
    settings = {
        "split": split,
        "data": data.name,
        "draws": options.draws,
        "seed": options.seed,
        "model": [run.fingerprint(), other.run.fingerprint()],
        "data_hash": data.fingerprint(),
    }
    own_name = f"information-against-{as_file_name([other.name])}-{split}"
    stem = name_for_weights(run, own_name, settings, given=str(options.name or ""), overwrite=options.overwrite)

    def held_out(start: int, stop: int) -> tuple[Tensor, dict[str, Any]]:
        part = raw[start:stop].to(first.model.device)
        cond = {} if labels is None else {"labels": labels[start:stop].to(first.model.device)}
        return dequantised(data, part, start, options.seed)[0], cond

    with run.alone(stem):
        table = _filled(first, other, stem, settings, len(raw), held_out, options, f"against {other.name}, {split}")
        drawn = _samples(first, other, stem, settings, options, sampler)
        edges = band_edges(common_strata([first.model, other.model], options.draws))
        note = _results(first, other, table, len(raw), drawn, options.samples, edges)
        note["step"] = run.step()
        kept = table.results_of_more(note)
        if not kept:
            table.write_note(**note)
            _picture(run, stem, first.name, other.name, note)
    return stem, {"settings": settings, **note, **({"kept": kept} if kept else {})}


def _samples(
    first: Contender, other: Contender, stem: str, settings: dict[str, Any], options: DictConfig, sampler: Sampler
) -> SampleTable:
    """The table of samples of the first run."""
    model, count = first.model, options.samples
    settings = {**settings, "split": "samples", "sampler": identity_of(sampler, first.run)}
    cond: dict[str, Any] = dict(labels_of(model, count, None))
    drawn: list[Tensor] = []

    def samples(start: int, stop: int) -> tuple[Tensor, dict[str, Any]]:
        if not drawn:
            shape = (count, *first.data.shape)
            out = sampler(model, shape, seed=options.seed, batch_size=options.batch_size, progress=False, **cond)
            drawn.append(out.x)
        return drawn[0][start:stop], {name: value[start:stop] for name, value in cond.items()}

    what = f"against {other.name}, samples"
    return _filled(first, other, f"{stem}-samples", settings, count, samples, options, what)


def _filled(
    first: Contender,
    other: Contender,
    stem: str,
    settings: dict[str, Any],
    n: int,
    part: Callable[[int, int], tuple[Tensor, dict[str, Any]]],
    options: DictConfig,
    what: str,
) -> SampleTable:
    """The table of a name with n rows, of which those that are missing are computed from the samples `part` gives."""
    draws = options.draws
    names = ("log_ratio", "squares", *band_names("log_ratio", draws), *band_names("squares", draws))
    table = SampleTable(first.run.directory / f"{stem}.csv", names, settings)
    if table.rows:
        table.resume()
    with Progress(n, what, "sample", min(len(table.rows), n), shown=options.progress) as bar:
        starts = range(len(table.rows), n, size := block_size(n, options.batch_size))
        missing = ((start, *part(start, min(start + size, n))) for start in starts)
        for rows in each(_Rows(first.model, other.model, draws, options.seed), missing):
            table.add(rows)
            bar.update(len(rows))
    return table


@dataclass(frozen=True)
class _Rows:
    """The rows of the table for some samples, in this process or in another.

    Attributes:
        model: The model of the first run.
        other: That of the other.
        draws: Noise levels for each sample.
        seed: Seed of the noise.
    """

    model: NetworkScore
    other: NetworkScore
    draws: int
    seed: int

    def __call__(self, item: tuple[int, Tensor, dict[str, Any]]) -> list[list[float]]:
        start, x, cond = item
        out = kl_divergence(self.model, self.other, x, draws=self.draws, seed=self.seed, first=start, **cond)
        totals = torch.stack((out.log_ratio, out.squares), 1)
        rows: list[list[float]] = torch.cat((totals, in_bands(out.ratio_by_level), in_bands(out.by_level)), 1).tolist()
        return rows


def _results(
    first: Contender, other: Contender, table: SampleTable, n: int, drawn: SampleTable, count: int, edges: Tensor
) -> dict[str, Any]:
    """What the rows come to, in the types of JSON."""
    size = math.prod(first.data.shape)
    discrete = first.data.transform.levels is not None
    scale, unit = (1 / (size * math.log(2)), "bits/dim") if discrete else (1.0, "nats")
    ratio = table.column("log_ratio", n)
    costs = PairedDifference(torch.zeros_like(ratio), scale * ratio)  # what the other run costs more
    by_scores, by_errors = drawn.column("squares", count), drawn.column("log_ratio", count)
    gap = PairedDifference(by_scores, by_errors)
    return {
        "first": first.name,
        "other": other.name,
        "n": n,
        "unit": unit,
        "costs_more": {"mean": finite(costs.mean), "stderr": finite(costs.stderr)},
        "verdict": costs.verdict(first.name, other.name, unit, lower_is_better=True),
        "curve": {"log_snr": edges.tolist(), **per_unit(_bands(table, "log_ratio", n), edges)},
        "divergence": {
            "samples": count,
            "by_scores": estimate_of(by_scores),
            "by_errors": estimate_of(by_errors),
            "agree": bool(abs(gap.mean) <= 3 * gap.stderr),
            "curve": {"log_snr": edges.tolist(), **per_unit(_bands(drawn, "squares", count), edges)},
        },
    }


def _bands(table: SampleTable, kind: str, n: int) -> Tensor:
    return table.columns_of([name for name in table.names if name.startswith(f"{kind}_")], n)


def _picture(run: Run, stem: str, name: str, other: str, note: dict[str, Any]) -> None:
    """Draw where in noise the other run costs more, and where the densities are apart."""
    curves = {
        f"{other} costs more on held-out data": note["curve"],
        f"divergence from {other} on samples of {name}": note["divergence"]["curve"],
    }
    series = {
        key: (
            [m or 0.0 for m in curve["mean"]],
            [math.nan if e is None else e for e in curve["stderr"]],
        )
        for key, curve in curves.items()
    }
    figure = plots().information_by_level(note["curve"]["log_snr"], series, "nats per unit of log SNR, a sample")
    caption = f"{note['verdict']}. By noise level, ± two standard errors; the area is what it comes to."
    save(run, figure, f"samples/{stem}.png", f"Against {other}", caption, "chart")


def runs_at(paths: Sequence[str], find: Callable[[Path], list[Path]], own: Path) -> list[Path]:
    """Run directories at paths, of which a folder without a configuration stands for the runs in it.

    Args:
        paths: The paths.
        find: Function from a folder to the run directories in it.
        own: Directory of the run that is compared, which is left out of folders.

    Raises:
        ConfigError: The run itself, or a path that is no run directory and has no other run in it.
    """
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.resolve() == own.resolve():
            raise ConfigError(f"{text} is the run itself: give another one to compare with")
        if not path.exists():
            raise ConfigError(f"against={text} does not exist; give a directory that `scoresde train` wrote")
        folder = path.is_dir() and not (path / "config.yaml").is_file()
        inside = [p for p in find(path) if p.resolve() != own.resolve()] if folder else [path]
        if not inside:
            raise ConfigError(f"against={text} is no run directory, and has no other run in it")
        found += [path for path in inside if path.resolve() not in [other.resolve() for other in found]]
    return found
