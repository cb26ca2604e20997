"""The likelihoods of several models on the same samples, compared by their differences.

Most of the scatter of a likelihood is that of the samples: easy ones are easy for every model. Where models are given
the same samples, the same dequantisation and the same probes, it cancels, and the mean difference has an error bar of
its own, much shorter than that of two means.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.likelihood.bits import BitsPerDim, bits_per_dim
from scoresde.likelihood.density import LogLikelihood, log_likelihood
from scoresde.likelihood.dequantisation import DiscreteTransform
from scoresde.likelihood.errors import LikelihoodError
from scoresde.numerics.html import table, with_error
from scoresde.numerics.means import mean_and_error, shared_error
from scoresde.numerics.paired import AgainstFirst
from scoresde.score import ScoreModel

__all__ = ["LikelihoodComparison", "compare_likelihoods"]


@dataclass(frozen=True, eq=False)
class LikelihoodComparison(AgainstFirst):
    """Likelihoods of several models on the same samples, `unit` in `"nats"` or `"bits/dim"`; see `AgainstFirst`.

    Attributes:
        results: The result of each model: a `LogLikelihood` in nats, or a `BitsPerDim`.
    """

    results: tuple[LogLikelihood | BitsPerDim, ...]

    @classmethod
    def of(
        cls, names: Sequence[str], results: Sequence[LogLikelihood | BitsPerDim], unit: str
    ) -> "LikelihoodComparison":
        """The comparison of results that are there; the solver's error has the share of it that samples have alike."""
        values = torch.stack([_values(result).double().cpu() for result in results])
        shared = [shared_error(_solver(result)) for result in results]
        return cls(tuple(names), unit, values, shared, tuple(results))

    @cached_property
    def stderr(self) -> Tensor:
        """The standard errors of `values` from random probes, `(M, B)` float64 on the CPU."""
        return torch.stack([result.stderr.double().cpu() for result in self.results])

    @cached_property
    def solver_stderr(self) -> Tensor:
        """The standard errors of `values` from the solver, `(M, B)` float64 on the CPU."""
        return torch.stack([_solver(result).double().cpu() for result in self.results])

    @property
    def total_stderr(self) -> Tensor:
        """The standard errors of `values` from probes and solver together, `(M, B)`."""
        return torch.hypot(self.stderr, self.solver_stderr)

    def __repr__(self) -> str:
        return f"LikelihoodComparison({'; '.join(self.verdicts)}; n={self.values.shape[1]})"

    def _repr_html_(self) -> str:
        return _html(self)


def _values(result: LogLikelihood | BitsPerDim) -> Tensor:
    return result.bits if isinstance(result, BitsPerDim) else result.log_prob


def _solver(result: LogLikelihood | BitsPerDim) -> Tensor:
    return torch.full_like(result.stderr, math.nan) if result.solver_stderr is None else result.solver_stderr


@checked
def compare_likelihoods(
    models: Sequence[ScoreModel] | Mapping[str, ScoreModel],
    x: Tensor,
    transform: DiscreteTransform | None = None,
    *,
    conditions: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
    first: int = 0,
    **options: Any,
) -> LikelihoodComparison:
    """Compare the likelihoods of models on the same samples, with the same dequantisation and the same probes.

    Args:
        models: Two score models or more; others are compared with the first. A mapping gives them names.
        x: Samples `(B, ...)`: floating-point numbers as `log_likelihood` takes them, for log-densities in nats, or
            integers as `bits_per_dim` takes them, for bits per dimension.
        transform: Transform of discrete data, if the models do not know it; x may then be integers of any dtype.
        conditions: Conditions of each model, in addition to those that all have among the options.
        seed: Seed of the dequantisation and the probes of all models.
        first: Index of the first sample.
        **options: Options of `log_likelihood` or `bits_per_dim`, such as `divergence`, `draws`, `tol` or `batch_size`,
            and conditions that all models have.

    Raises:
        ValueError: Fewer than two models, conditions for another number of models, or models of data of different
            shapes or levels; otherwise as `log_likelihood` or `bits_per_dim`.
        LikelihoodError: As `log_likelihood`, with the model's name.
    """
    names, chosen = _named(models)
    given = [{}] * len(chosen) if conditions is None else list(conditions)
    if len(given) != len(chosen):
        raise ValueError(f"conditions has {len(given)} entries for {len(chosen)} models: give one for each")
    discrete = transform is not None or not x.is_floating_point()
    _check_alike(names, chosen, discrete and transform is None)
    results: list[LogLikelihood | BitsPerDim] = []
    for name, model, cond in zip(names, chosen, given, strict=True):
        try:
            if discrete:
                results.append(bits_per_dim(model, x, transform, seed=seed, first=first, **{**options, **cond}))
            else:
                results.append(log_likelihood(model, x, seed=seed, first=first, **{**options, **cond}))
        except LikelihoodError as error:
            raise LikelihoodError(f"{name}: {error}", error.samples, error.status, error.result) from error
    return LikelihoodComparison.of(names, results, "bits/dim" if discrete else "nats")


def _named(models: Sequence[ScoreModel] | Mapping[str, ScoreModel]) -> tuple[tuple[str, ...], list[ScoreModel]]:
    """The names of the models, and the models."""
    names = tuple(models) if isinstance(models, Mapping) else tuple(f"model {i + 1}" for i in range(len(models)))
    chosen = list(models.values() if isinstance(models, Mapping) else models)
    if len(chosen) < 2:
        raise ValueError(f"models has {len(chosen)} model{'s' * (len(chosen) != 1)}, expected two or more to compare")
    for name, model in zip(names, chosen, strict=True):
        if not isinstance(model, ScoreModel):
            raise ArgumentError(f"{name} is {shown(model)}, expected a score model")
    return names, chosen


def _check_alike(names: Sequence[str], models: Sequence[ScoreModel], by_own_levels: bool) -> None:
    """Reject models whose likelihoods are of different data.

    Args:
        names: Names of the models.
        models: The models.
        by_own_levels: Whether each takes integers by its own transform, and not all x or integers by one.

    Raises:
        ValueError: What differs, with the values of both models.
    """
    for name, model in zip(names[1:], models[1:], strict=True):
        facts: dict[str, list[Any]] = {"shape": [m.shape for m in (models[0], model)]}
        if by_own_levels:
            facts["levels"] = [_levels(m) for m in (models[0], model)]
        for what, (one, other) in facts.items():
            if one != other and None not in (one, other):
                raise ValueError(
                    f"{names[0]} and {name} are of data of different {what}, {one} and {other}: their likelihoods "
                    "cannot be compared"
                )


def _levels(model: ScoreModel) -> int | None:
    return None if model.info is None else model.info.transform.levels


def _html(out: LikelihoodComparison) -> str:
    """Means of all models, differences from the first with their errors, and sign tests, as HTML."""
    rows = [
        (name, f"{with_error(*mean_and_error(values, errors))} {out.unit}")
        for name, values, errors in zip(out.names, out.values, out.solver_stderr, strict=True)
    ]
    for name, difference in zip(out.names[1:], out.differences, strict=True):
        pair = f"{name} − {out.names[0]}"
        apart = "" if (gain := difference.gain) is None else f"; apart the means would have {gain:.3g} times that error"
        rows += [
            (pair, f"{difference} {out.unit}{apart}"),
            ("in sum", f"{with_error(difference.total, difference.total_stderr)} {out.unit}"),
            ("sign test", f"{difference.more} samples more, {difference.less} less, p = {difference.p_value:.2g}"),
        ]
    way = "Lower" if out.lower_is_better else "Higher"
    return table("Likelihoods of the same samples", rows, f"{way} is better; n = {out.values.shape[1]}.")
