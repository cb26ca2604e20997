"""Certificates in one call: of posterior samplers, or of samplers without measurements."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scoresde.arguments import checked
from scoresde.certificate.contenders import AnySampler
from scoresde.certificate.posterior_frame import posterior_frame
from scoresde.certificate.posteriors import AnyMethod, PosteriorCertificate
from scoresde.certificate.priors import NAMED, read_mixture
from scoresde.certificate.samplers import SamplerCertificate, sampler_frame
from scoresde.inverse import Problem
from scoresde.progress import Progress
from scoresde.score import GaussianMixtureScore
from scoresde.sde import SDE

__all__ = ["certify", "prior_of"]


@checked
def prior_of(prior: str | Path, sde: SDE | None = None) -> GaussianMixtureScore:
    """The mixture of a name, "digits" or "ring", or of an npz file; see `scoresde.certificate.read_mixture`.

    Args:
        prior: The name or the file.
        sde: The forward SDE; that of the named mixture, or `EDMSDE()`, if not given.

    Raises:
        ValueError: A file that has no mixture.
        FileNotFoundError: Neither a name nor a file.
    """
    if str(prior) in NAMED:
        return NAMED[str(prior)](sde)
    if not Path(prior).is_file():
        raise FileNotFoundError(2, f"there is no such prior: it is {', '.join(NAMED)} or a file", str(prior))
    return read_mixture(prior, sde)


@checked
def certify(
    prior: GaussianMixtureScore | str | Path,
    *,
    methods: Mapping[str, AnyMethod] | None = None,
    problems: Mapping[str, Problem] | None = None,
    samplers: Mapping[str, AnySampler] | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Hold samplers against what is known exactly of a mixture.

    With problems, methods for inverse problems are held against the exact posterior, several measurements of each:

        certify("digits", methods={"dps": DPS()}, problems={"mask": problem}, noises=[0.1], steps=[50])

    Without, samplers are held against the exact probability flow and what they promise:

        certify("ring", samplers={"heun": lambda n: Sampler(EDMHeun(), KarrasGrid(n))}, claims={"heun": 2})

    Either takes functions from elsewhere: see `scoresde.certificate.Function` and `SigmaFunction`.

    Args:
        prior: The mixture, or its name or file; see `prior_of`.
        methods: Methods by name.
        problems: Problems by name; none for a certificate of samplers.
        samplers: Samplers by name. With problems, they take the place of the methods' own, where methods are fields.
        progress: Whether to show a progress bar.
        **options: Those of `PosteriorCertificate`, or of `SamplerCertificate` without problems.

    Returns:
        A row for each cell, with `POSTERIOR_COLUMNS` or `SAMPLER_COLUMNS`.

    Raises:
        ValueError: Nothing to certify, or what cannot be certified; before anything is drawn.
    """
    mixture = prior if isinstance(prior, GaussianMixtureScore) else prior_of(prior)
    if problems:
        makers: dict[str, Any] = dict(samplers or {})
        posteriors = PosteriorCertificate(mixture, methods or {}, problems, samplers=makers, **options)
        rows = _filled(posteriors.cells, posteriors.row, progress)
        return posterior_frame(rows)
    if methods:
        raise ValueError(f"there are methods ({', '.join(methods)}) and no problems: give problems={{name: problem}}")
    certificate = SamplerCertificate(mixture, samplers or {}, **options)
    return sampler_frame(_filled(certificate.cells, certificate.row, progress))


def _filled(cells: Sequence[Any], row: Callable[[Any], dict[str, Any]], progress: bool) -> list[dict[str, Any]]:
    rows = []
    with Progress(len(cells), "certifying", "cell", shown=progress) as bar:
        for cell in cells:
            bar.note(" ".join(str(part) for part in cell if part not in ("", None)))
            rows.append(row(cell))
            bar.update()
    return rows
