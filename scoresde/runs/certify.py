"""Certificates in a folder: rows in a table that an interrupted command resumes, a picture and a page."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from scoresde import plots, shell
from scoresde.certificate import (
    EXACT,
    POSTERIOR_COLUMNS,
    SAMPLER_COLUMNS,
    PosteriorCell,
    PosteriorCertificate,
    SamplerCell,
    SamplerCertificate,
    fitted,
    posterior_frame,
    posterior_table,
    prior_of,
    sampler_frame,
    sampler_table,
)
from scoresde.certificate.picture import posterior_picture, sampler_picture
from scoresde.certificate.posterior_frame import MEANINGS, RANKS, TEXTS
from scoresde.certificate.rank_picture import rank_pictures
from scoresde.certificate.samplers import SAMPLER_MEANINGS, SAMPLER_TEXTS
from scoresde.config.targets import instantiate
from scoresde.data import Data
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.plots.style import to_png
from scoresde.progress import Progress, say
from scoresde.report.certificate import certificate_page
from scoresde.runs.certificate_table import CertificateTable, cell_texts
from scoresde.runs.locks import locked
from scoresde.runs.named import Named
from scoresde.runs.results import choose_name, known_tables
from scoresde.runs.team import each
from scoresde.sampling import Sampler
from scoresde.score import GaussianMixtureScore
from scoresde.sde import SDE
from scoresde.storage.files import write_text

__all__ = ["NONE", "Certified", "Parts", "certify_in"]

NONE = "none"
"""The problem of samplers without measurements."""


@dataclass(frozen=True)
class Parts:
    """Where a certificate finds its parts, by name.

    Attributes:
        methods: The methods of inverse problems.
        problems: The problems.
        samplers: The samplers.
        orders: Orders of convergence that named samplers claim.
    """

    methods: Named
    problems: Named
    samplers: Named
    orders: Mapping[str, float]


@dataclass(frozen=True)
class Certified:
    """A certificate as it was written.

    Attributes:
        frame: All rows.
        table: The summary as text, a header and rows.
        path: The table; pictures and the page lie beside it, by the same name.
        failed: The cells that have no numbers, with the reason.
    """

    frame: pd.DataFrame
    table: list[list[str]]
    path: Path
    failed: list[str]


def certify_in(directory: Path, options: DictConfig, parts: Parts, progress: bool = True) -> Certified:
    """Certify what `options` name: writes a table (CSV), its settings (JSON), pictures (PNG) and a page (HTML).

    Rows that are there already, of the same mixture, settings, methods and samplers, are not computed again. A
    certificate with other settings has files of its own, named by what differs.

    Args:
        directory: The folder.
        options: Options as in `conf/certify.yaml`.
        parts: Where names are looked up.
        progress: Show a progress bar.

    Raises:
        ConfigError: A wrong option, an unknown name, or a combination that cannot be certified; nothing is drawn.
    """
    plain: Any = OmegaConf.to_container(options, resolve=True)
    for problem in option_problems("certify", plain):
        raise ConfigError(problem)
    prior = _prior(options, parts.problems.allow)
    problems = _listed(options.problems)
    try:
        if problems == [NONE]:
            return _samplers(directory, options, parts, prior, progress)
        if NONE in problems:
            raise ConfigError(f"problems={','.join(problems)}: {NONE} is for samplers without measurements, by itself")
        return _posteriors(directory, options, parts, prior, problems, progress)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split())) from error


def _prior(options: DictConfig, allow: Sequence[str]) -> GaussianMixtureScore:
    sde = instantiate(options, "sde", allow)
    if not isinstance(sde, SDE):
        raise ConfigError(f"sde={type(sde).__name__} is a chain, and certificates are of SDEs: take vp, ve or edm")
    if options.get("data") is None:
        if options.prior is None:
            raise ConfigError("there is no prior: give prior=digits, prior=ring, prior=FILE.npz, or data to fit it to")
        return prior_of(options.prior, sde)
    data: Data = instantiate(options, "data", allow)
    return fitted(data.transform.encode(data.train[:]).double(), options.components, sde, options.seed)


def _posteriors(
    directory: Path,
    options: DictConfig,
    parts: Parts,
    prior: GaussianMixtureScore,
    names: Sequence[str],
    progress: bool,
) -> Certified:
    shape = tuple(prior.shape or ())
    problems = {name: parts.problems(name).for_shape(shape) for name in names}
    given = None if options.methods is None else _listed(options.methods)
    methods = {name: parts.methods(name) for name in (parts.methods.files if given is None else given)}
    samplers = {name: _maker(parts.samplers, name) for name in _listed(options.samplers or [])}
    sizes: dict[str, Any] = {
        "noises": [] if options.noises is None else [float(v) for v in _listed(options.noises)],
        "steps": _listed(options.steps),
        "measurements": options.measurements,
        "samples": options.samples,
        "seed": options.seed,
        "batch_size": options.batch_size,
    }
    if given is None:
        methods = _suited(prior, methods, problems, sizes)
    certificate = PosteriorCertificate(prior, methods, problems, samplers=samplers, **sizes)
    settings = {
        "kind": "posteriors",
        "prior": _fingerprint(prior),
        "sde": repr(prior.sde),
        "measurements": options.measurements,
        "samples": options.samples,
        "seed": options.seed,
    }

    def identity(cell: PosteriorCell) -> str:
        made = parts.problems.identity(cell.problem)
        if cell.method != EXACT:
            made += parts.methods.identity(cell.method)
        return made + (parts.samplers.identity(cell.sampler) if cell.sampler else "")

    where = _what(options)
    sentences = [
        f"Posterior samples of {where} under {prior.sde!r}, against the exact posterior: {options.measurements} "
        f"measurements each, {options.samples} samples of each.",
        "Values are means over measurements with their standard errors; exact samples are the first row of a problem.",
        "A measure is listed as wrong where exact samples would show the like in one case of 1,000.",
    ]
    caption = (
        "Above: distance to exact samples against the cost of a sample, forward evaluations and Jacobian products "
        "together; dotted, what exact samples have. Below: the share of truths inside central intervals, with the most "
        "steps; dotted, what it should be."
    )
    kind = _Kind(
        "posteriors",
        POSTERIOR_COLUMNS,
        TEXTS,
        posterior_frame,
        posterior_table,
        posterior_picture,
        MEANINGS,
        rank_pictures,
        RANKS,
    )
    page = _Page("Certificate of posterior samplers", sentences, caption)
    return _write(directory, kind, settings, certificate.cells, certificate.row, identity, page, options, progress)


def _samplers(
    directory: Path, options: DictConfig, parts: Parts, prior: GaussianMixtureScore, progress: bool
) -> Certified:
    if options.methods is not None:
        raise ConfigError("methods are for inverse problems: give problems, or leave methods out")
    if options.noises is not None:
        raise ConfigError("noises are those of measurements: give problems, or leave noises out")
    names = _listed(options.samplers or _DEFAULT_SAMPLERS)
    samplers = {name: _maker(parts.samplers, name) for name in names}
    claims = {name: parts.orders[name] for name in names if name in parts.orders}
    certificate = SamplerCertificate(prior, samplers, claims=claims, samples=options.samples, seed=options.seed)
    settings = {
        "kind": "samplers",
        "prior": _fingerprint(prior),
        "sde": repr(prior.sde),
        "samples": options.samples,
        "seed": options.seed,
    }

    def identity(cell: SamplerCell) -> str:
        return parts.samplers.identity(cell.sampler) + str(claims.get(cell.sampler))

    sentences = [
        f"Samplers without measurements, on {_what(options)} under {prior.sde!r}, with the exact score in float64.",
        "Errors are against true ends of the probability flow, or against exact samples where a sampler adds noise.",
        "A check is listed as wrong where the number is not as demanded.",
    ]
    kind = _Kind(
        "samplers", SAMPLER_COLUMNS, SAMPLER_TEXTS, sampler_frame, sampler_table, sampler_picture, SAMPLER_MEANINGS
    )
    page = _Page("Certificate of samplers", sentences, "Errors at numbers of evaluations, with standard errors.")
    return _write(directory, kind, settings, certificate.cells, certificate.row, identity, page, options, progress)


_DEFAULT_SAMPLERS = ("ddim", "edm_heun", "dpmpp_2m", "unipc", "default", "ddpm", "dpmpp_2m_sde")


@dataclass(frozen=True)
class _Kind:
    """What a certificate of one kind is made of."""

    stem: str
    columns: list[str]
    texts: Sequence[str]
    frame: Callable[[list[dict[str, Any]]], pd.DataFrame]
    table: Callable[[pd.DataFrame], list[list[str]]]
    picture: Callable[[pd.DataFrame], Any]
    meanings: Sequence[tuple[str, str]]
    ranks: Callable[[pd.DataFrame], dict[str, Any]] = lambda _: {}
    later: Sequence[str] = ()


@dataclass(frozen=True)
class _Page:
    title: str
    sentences: list[str]
    caption: str


def _write(
    directory: Path,
    kind: _Kind,
    settings: dict[str, Any],
    cells: Sequence[Any],
    row: Callable[[Any], dict[str, Any]],
    identity: Callable[[Any], str],
    page: _Page,
    options: DictConfig,
    progress: bool,
) -> Certified:
    """Compute the cells that the table lacks, and write what is made of all of them."""
    with locked(directory, kind.stem):
        name = choose_name(kind.stem, known_tables(directory, kind.stem), settings, None, overwrite=options.overwrite)
        path = directory / f"{name}.csv"
        key = len(cells[0])
        written = {
            tuple("" if v is None else v if isinstance(v, str) else repr(v) for v in cell): cell for cell in cells
        }
        identities = {text: identity(cell) for text, cell in written.items()}
        table = CertificateTable(path, settings, kind.columns, kind.texts, key, identities, kind.later)
        missing = [cell for cell in cells if table.lacks(cell)]
        with Progress(len(cells), "certifying", "cell", len(cells) - len(missing), shown=progress) as bar:
            for cell, found in zip(missing, each(row, missing), strict=True):
                bar.note(" ".join(str(part) for part in cell if part not in ("", None)))
                table.add(found)
                bar.update()
        frame = kind.frame([table.rows[cell_texts(cell)] for cell in cells])
        text = kind.table(frame)
        command = shell.command("certify", *_overrides(options))
        table.finish(command=command)
        pictures = _pictures(path, kind, frame, page.caption)
        full = [kind.columns, *([_cell(r[c]) for c in kind.columns] for _, r in frame.iterrows())]
        content = certificate_page(
            page.title,
            page.sentences,
            text,
            full,
            kind.meanings,
            command,
            pictures,
        )
        write_text(path.with_suffix(".html"), content)
    failed = frame[frame["failure"] != ""]
    told = [
        f"{' '.join(filter(None, map(_cell, r[kind.columns[:key]])))}: {r['failure']}" for _, r in failed.iterrows()
    ]
    return Certified(frame, text, path, told)


_RANKS = (
    "Truths by their rank among their samples, along principal axes, in density, and in the distance to a point, with "
    "the most steps. The band holds all bars of exact samples in 99 of 100 histograms. A hill says that samples are "
    "too wide, a trough that they are too narrow, a slope that they lie to one side."
)


def _pictures(path: Path, kind: _Kind, frame: pd.DataFrame, caption: str) -> list[tuple[str, str, bytes]]:
    """Write the pictures beside the table; their titles and captions, with their bytes."""
    found = []
    figure = kind.picture(frame)
    if figure is not None:
        plots.save(figure, path.with_suffix(".png"))
        found.append(("Picture", caption, to_png(figure)))
    for name, ranks in kind.ranks(frame).items():
        plots.save(ranks, path.with_name(f"{path.stem}-ranks-{name.replace(', noise ', '-')}.png"))
        found.append((f"Ranks: {name}", _RANKS, to_png(ranks)))
    return found


def _suited(
    prior: GaussianMixtureScore, methods: dict[str, Any], problems: Mapping[str, Any], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """The methods that are for all the problems; what is left out is said."""
    kept = {}
    few = {**sizes, "measurements": 2, "samples": 40}
    for name, method in methods.items():
        try:
            PosteriorCertificate(prior, {name: method}, problems, **few)
        except ValueError as error:
            say(f"left out: {' '.join(str(error).split())}")
        else:
            kept[name] = method
    return kept


def _maker(named: Named, name: str) -> Any:
    """The sampler of a name as a function of the number of steps, or the user's own function."""
    made = named(name)
    if not isinstance(made, Sampler) or "." in name:
        return made
    if made.solver.adapts:
        return made
    return partial(_in_steps, named, name)


def _in_steps(named: Named, name: str, steps: int) -> Any:
    return named(name, **{"grid.steps": steps})


def _listed(value: Any) -> list[Any]:
    return list(dict.fromkeys([value] if isinstance(value, str | int | float) else value))


def _fingerprint(prior: GaussianMixtureScore) -> str:
    """16 characters that two mixtures share exactly when they are the same."""
    found = hashlib.sha256(str(prior.shape).encode())
    for values in (prior.weights, prior.means, prior.variances, prior.rotations):
        # Fits of the same data agree to round-off.
        rounded = torch.zeros(0) if values is None else values.abs().double()
        found.update((rounded * 1e6).round().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _what(options: DictConfig) -> str:
    if options.get("data") is not None:
        return f"a mixture of {options.components} components fitted to the data"
    return f"the mixture {options.prior}"


_SAID = ("prior", "problems", "methods", "samplers", "noises", "steps", "measurements", "samples", "seed", "out")


def _overrides(options: DictConfig) -> list[str]:
    made = []
    for key in _SAID:
        value: Any = options.get(key)
        if value not in (None, []):
            listed = not isinstance(value, str | int | float)
            made.append(shell.override(key, [str(v) for v in value] if listed else str(value)))
    return made


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
