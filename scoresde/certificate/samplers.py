"""The checks of samplers, cell by cell, and the table of their verdicts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from scoresde.arguments import checked
from scoresde.certificate.contenders import AnySampler, contender
from scoresde.certificate.sampler import CHECKS, SamplerExam
from scoresde.numerics.values import one_of
from scoresde.score import GaussianMixtureScore

__all__ = [
    "SAMPLER_COLUMNS",
    "SAMPLER_MEANINGS",
    "SAMPLER_TEXTS",
    "SamplerCell",
    "SamplerCertificate",
    "sampler_frame",
    "sampler_table",
]


class SamplerCell(NamedTuple):
    """What a row is about: the names of a sampler and of a check."""

    sampler: str
    check: str


SAMPLER_COLUMNS = [*SamplerCell._fields, "value", "stderr", "passed", "threshold", "finding", "failure"]
"""The columns: the number of a check and its standard error, whether it is as demanded ("yes", "no", or empty where
nothing is), what was demanded, the finding in words, and why there is none."""
SAMPLER_MEANINGS = (
    ("order", "slope of log error over log steps; for samplers with noise that of the bias of a variance"),
    ("error at 5, 10, 20", "error on the prior with at most so many counted evaluations"),
    ("error", "the same of a sampler whose steps a tolerance decides on"),
    ("count", "difference of counted and declared evaluations"),
    ("mates", "relative difference of a sample whose batch mates start elsewhere"),
    ("alone", "relative difference of samples alone and in a batch"),
    ("repeats", "relative difference of two runs of one seed"),
    ("end", "noise that is left at the end, over the last level of the grid"),
    ("refines", "order at which more steps change the end of a path with the same seed"),
    ("moments", "relative bias of the total variance, and of the width of modes, with noise"),
)
"""Checks of samplers and what their numbers are."""
SAMPLER_TEXTS = ("sampler", "check", "passed", "threshold", "finding", "failure")


@checked
class SamplerCertificate:
    """The checks of samplers on a mixture, each to be made by itself.

    Args:
        prior: The mixture.
        samplers: Samplers by name: a `Sampler`, a function that makes one of a number of steps, or a function
            `f(denoiser, x, sigmas) -> x` in the convention of k-diffusion; see `scoresde.certificate.SigmaFunction`.
        claims: Orders of convergence that samplers claim, by name; weak for those that add noise.
        checks: The checks; all of `CHECKS` if not given.
        samples: The number of starts of errors.
        seed: Seed of starts and noise.

    Attributes:
        cells: The cells, in order.

    Raises:
        ValueError: No samplers, something that is none, a claim for another one, or an unknown check.
    """

    def __init__(
        self,
        prior: GaussianMixtureScore,
        samplers: Mapping[str, AnySampler],
        *,
        claims: Mapping[str, float] | None = None,
        checks: Sequence[str] | None = None,
        samples: int = 512,
        seed: int = 0,
    ) -> None:
        if not samplers:
            raise ValueError("nothing to certify: there are no samplers")
        chosen = CHECKS if checks is None else tuple(dict.fromkeys(checks))
        for check in chosen:
            one_of("checks", check, CHECKS)
        for name in claims or {}:
            one_of("claims", name, tuple(samplers))
        self.contenders = {name: contender(sampler) for name, sampler in samplers.items()}
        self.claims = dict(claims or {})
        self.exam = SamplerExam(prior, samples=samples, seed=seed)
        self.cells = [SamplerCell(name, check) for name in samplers for check in chosen]

    def row(self, cell: SamplerCell) -> dict[str, Any]:
        """The row of a cell; one of a sampler that fails has the reason in `failure`."""
        try:
            found = self.exam.verdict(cell.check, self.contenders[cell.sampler], self.claims.get(cell.sampler))
        except Exception as error:  # whatever a sampler of the user's own may raise: the others continue
            return {**cell._asdict(), "failure": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        passed = "" if found.passed is None else "yes" if found.passed else "no"
        return {
            **cell._asdict(),
            "value": found.value,
            "stderr": found.stderr,
            "passed": passed,
            "threshold": found.threshold,
            "finding": found.text,
        }


@checked
def sampler_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a frame with `SAMPLER_COLUMNS`; what a row lacks is NaN, or empty where it is text."""
    empty: dict[str, Any] = {name: "" if name in SAMPLER_TEXTS else math.nan for name in SAMPLER_COLUMNS}
    return pd.DataFrame([{**empty, **row} for row in rows], columns=SAMPLER_COLUMNS)


_SHOWN = ("order", "error at 5", "error at 10", "error at 20")


@checked
def sampler_table(frame: pd.DataFrame) -> list[list[str]]:
    """The frame as text for a terminal, a row for each sampler: a header and rows.

    The last column names the checks that found a fault, or nothing. What does not apply is a dash.
    """
    shown = [check for check in (*_SHOWN, "error") if (frame["check"] == check).any()]
    if not frame.loc[frame["check"] == "error", "value"].notna().any():
        shown = [check for check in shown if check != "error"]
    rows = []
    for name, group in frame.groupby("sampler", sort=False):
        found = group.set_index("check")
        cells = [_number(found.loc[check]) if check in found.index else "" for check in shown]
        wrong = [str(check) for check in found.index[(found["passed"] == "no") | (found["failure"] != "")]]
        rows.append([str(name), *cells, " ".join(wrong) or "nothing"])
    return [["sampler", *shown, "wrong"], *rows]


def _number(row: pd.Series) -> str:
    value, stderr = float(row["value"]), float(row["stderr"])
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(stderr) or stderr == 0:
        return f"{value:.3g}"
    digits = max(1, 1 + math.floor(math.log10(abs(value))) - math.floor(math.log10(stderr))) if value else 1
    return f"{value:.{digits}g} ± {stderr:.1g}"
