"""Samples of stochastic solvers against the exact density, by number of evaluations and by every measure."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from cases import Case
from cells import Prepare, Prepared, named_preset, solves
from contenders import OURS, OWN, Budget, Contender, Counted, Failures
from targets import Target

from scoresde.compare import ExactReference
from scoresde.metrics import Estimate

__all__ = [
    "NOISY_DEFAULTS",
    "Noisy",
    "estimates",
    "noisy_cells",
    "noisy_prepared",
    "noisy_table",
    "noisy_targets",
    "reference",
]

# What may be called the default of stochastic solvers; the first is the one that targets are of.
NOISY_DEFAULTS: dict[str, Prepare] = {"default_sde": named_preset("default_sde")}
MEASURES = (
    "nats_lost",
    "kl_to_model",
    "kl_to_samples",
    "noise_left",
    "too_narrow",
    "weight_error",
    "widest",
    "narrowest",
    "sliced_wasserstein",
)
MANY_ELEMENTS, FEWER_SAMPLES = 256, 256
NATS, SPREAD, RESOLVED = 1.0, 0.05, 15  # the variance of a direction is the square of its spread
WASSERSTEIN = 1.5


@dataclass(frozen=True)
class Noisy:
    """What samples of a contender are, by name of the measure.

    Attributes:
        case: The name of the case.
        group: "default", "ours", "peers", or "exact" for exact samples.
        name: The contender.
        budget: The largest number of evaluations; 0 for exact samples.
        values: The measures, each with its standard error.
    """

    case: str
    group: str
    name: str
    budget: int
    values: dict[str, list[float]] = field(default_factory=dict)

    def value(self, measure: str) -> float:
        return self.values[measure][0] if measure in self.values else math.inf

    def error(self, measure: str) -> float:
        return self.values[measure][1] if measure in self.values else math.inf


def reference(case: Case, samples: int) -> tuple[ExactReference, torch.Tensor]:
    """The exact density at the last time, and states at the first."""
    density, sde = case.density, case.model.sde
    assert density is not None
    count = samples if density.means.shape[1] < MANY_ELEMENTS else min(samples, FEWER_SAMPLES)
    starts = density.sample(count, sde.t_max, torch.Generator().manual_seed(1))
    return ExactReference(density, count, seed=2, t=sde.t_min_sampling), starts


def noisy_prepared(case: Case) -> Iterator[tuple[Contender, Counted, Prepared]]:
    """Each default, measured on the case, with the model that it was measured on."""
    for name, prepare in NOISY_DEFAULTS.items():
        model = case.counted()
        made, spent = Prepared.timed(case.name, name, prepare, model)
        yield Contender(OURS, name, OWN, solves(made), stochastic=True), model, spent


def noisy_cells(
    group: str,
    contenders: Iterable[tuple[Contender, Counted]],
    case: Case,
    exact: ExactReference,
    starts: torch.Tensor,
    budgets: Sequence[int],
    failures: Failures,
    stored: dict[str, Any] | None = None,
    save: Callable[[], None] = lambda: None,
) -> Iterator[Noisy]:
    """Measures of the contenders whose samples are finite; `stored` as for `cells.cells`."""
    stored = {} if stored is None else stored
    for contender, model in contenders:
        found: dict[int, dict[str, list[float]]] = stored.setdefault(str(contender), {})
        missing = [b for b in budgets if b not in found]
        try:
            budget = Budget(contender, model, starts) if missing else None
            for allowed in missing:
                assert budget is not None
                end = budget.end(allowed)
                fine = end is not None and bool(end.isfinite().all())
                found[allowed] = estimates(exact(end)) if fine and end is not None else {}
        except Exception as error:  # as for `cells.cells`
            failures.add(f"{case.name}: {contender}", error)
        if missing:
            save()
        name = contender.solver if group == "default" else str(contender)
        yield from (Noisy(case.name, group, name, b, found[b]) for b in budgets if found.get(b))


def estimates(found: dict[str, Estimate]) -> dict[str, list[float]]:
    """Values and standard errors by measure, as they are stored."""
    return {name: [estimate.value, estimate.stderr] for name, estimate in found.items()}


def _rank(row: Noisy) -> float:
    """By what the best named solver is chosen: nats above or below those of exact samples."""
    return abs(row.value("nats_lost"))


def _best(rows: Iterable[Noisy], key: Callable[[Noisy], float] = _rank) -> Noisy | None:
    return min((r for r in rows if math.isfinite(key(r))), key=key, default=None)


def noisy_table(rows: Sequence[Noisy]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every measure of exact samples, of defaults, and of the best of ours and of peers in nats."""
    head = ["problem", "NFE", "samples of", *MEASURES]
    lines = []
    for case, budget in dict.fromkeys((r.case, r.budget) for r in rows):
        here = [r for r in rows if (r.case, r.budget) == (case, budget)]
        shown = [r for r in here if r.group in ("exact", "default")]
        shown += [best for group in ("ours", "peers") if (best := _best(r for r in here if r.group == group))]
        for row in shown:
            values = (f"{row.value(m):.3g}" if m in row.values else "–" for m in MEASURES)
            lines.append([case, str(budget), row.name, *values])
    return head, lines


def noisy_targets(rows: Sequence[Noisy]) -> Iterator[Target]:
    """The lines of the summary, for each default."""
    for default in dict.fromkeys(r.name for r in rows if r.group == "default"):
        mine = [r for r in rows if (r.group, r.name) == ("default", default)]
        late = [r for r in mine if r.budget >= RESOLVED]
        yield from _nats(default, mine, rows)
        low, high = math.sqrt(1 - SPREAD), math.sqrt(1 + SPREAD)
        at = f"from {RESOLVED} evaluations"
        yield from _largest(default, f"noise left, {at}", late, "noise_left", 1, f"≤ {high:.3f}", high)
        yield from _largest(default, f"too narrow, {at}", late, "too_narrow", -1, f"≥ {low:.3f}", -low)
        yield from _largest(default, f"widest mode, {at}", late, "widest", 1, f"≤ {high:.3f}", high)
        yield from _largest(default, f"narrowest mode, {at}", late, "narrowest", -1, f"≥ {low:.3f}", -low)
        yield from _wasserstein(default, mine, rows)


def _nats(default: str, mine: Sequence[Noisy], rows: Sequence[Noisy]) -> Iterator[Target]:
    found = []
    for row in mine:
        named = _best(r for r in rows if (r.case, r.budget) == (row.case, row.budget) and r.group in ("ours", "peers"))
        if named is not None:
            error = math.hypot(row.error("nats_lost"), named.error("nats_lost"))
            found.append((_rank(row) - _rank(named), error, f"{row.case} at {row.budget}, {named.name}"))
    yield from _judged(default, "nats lost above the best named solver", found, 1, NATS, f"≤ {NATS}")


def _largest(
    default: str, what: str, rows: Sequence[Noisy], measure: str, sign: int, target: str, bound: float
) -> Iterator[Target]:
    found = [
        (sign * r.value(measure), r.error(measure), f"{r.case} at {r.budget}") for r in rows if measure in r.values
    ]
    yield from _judged(default, what, found, sign, bound, target)


def _judged(
    default: str, what: str, found: Sequence[tuple[float, float, str]], sign: int, bound: float, target: str
) -> Iterator[Target]:
    """The worst of values, errors and places against a bound; a value counts as within it by two standard errors."""
    if not found:
        return
    beyond = [value - 2 * error > bound for value, error, _ in found]
    worst, error, where = max(found, key=lambda f: f[0] - 2 * f[1])
    text = f"{sign * worst:.3g} ± {error:.2g} ({where}); {1 - sum(beyond) / len(beyond):.0%} of {len(found)} within"
    yield Target(default, what, text, f"{target}, to two standard errors", not any(beyond))


def _wasserstein(default: str, mine: Sequence[Noisy], rows: Sequence[Noisy]) -> Iterator[Target]:
    """Both distances count as no less than that of other exact samples."""
    name = "sliced_wasserstein"
    found = []
    for row in mine:
        here = [r for r in rows if r.case == row.case]
        others = (r for r in here if r.budget == row.budget and r.group in ("ours", "peers"))
        named = _best(others, lambda r: r.value(name))
        floor = next((r.value(name) for r in here if r.group == "exact"), 0.0)
        if named is not None and name in row.values:
            least = max(named.value(name), floor)
            ratio = max(row.value(name), floor) / least
            error = math.hypot(row.error(name), ratio * named.error(name)) / least
            found.append((ratio, error, f"{row.case} at {row.budget}, {named.name}"))
    what, target = "sliced Wasserstein distance / best named solver", f"≤ {WASSERSTEIN}"
    yield from _judged(default, what, found, 1, WASSERSTEIN, target)
