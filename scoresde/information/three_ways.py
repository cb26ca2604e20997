"""The log-density of data in three ways, which agree if a model keeps its assumptions.

    way                                 density                             assumes
    probability-flow ODE                that of the ODE, at t_min           nothing of the scores
    evidence lower bound (ELBO)         that of the reverse SDE, at t_min   scores of one density that evolves
    denoising errors (I-MMSE)           that of data without noise          the same, and nothing beyond the λ range

For exact scores of a density that ends in the prior, and that is smooth at the noise of t_min, all three are one. A
network gives fields that are the gradient of no density, or of densities that do not follow each other: the ODE and the
SDE then have different densities. Where noise at t_min is not small against the data, the density of the data without
noise is another one than that at t_min.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.information.denoising import DenoisingInformation, denoising_information
from scoresde.likelihood.bounds import Bound, elbo
from scoresde.likelihood.density import LogLikelihood, log_likelihood
from scoresde.likelihood.options import FlowOptions
from scoresde.numerics.html import mean_with_error, table, with_error
from scoresde.numerics.means import mean_and_error, shared_error
from scoresde.numerics.paired import PairedDifference
from scoresde.numerics.trace import Divergence
from scoresde.score import ScoreModel

__all__ = ["WAYS", "Agreement", "ThreeWays", "agreement", "three_ways"]

WAYS = {"ode": "probability-flow ODE", "elbo": "ELBO of the reverse SDE", "immse": "denoising errors (I-MMSE)"}
"""The names of the ways, in words."""

# Standard errors of a mean difference up to which two ways count as the same.
_STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class Agreement:
    """Whether two ways agree.

    Attributes:
        first: Name of the first way, of `WAYS`.
        second: Name of the second.
        mean: Mean over samples of the second log-density less the first, in nats.
        stderr: Its standard error, from the scatter of the differences: samples, draws and probes.
        solver: What the solver of the ODE may err by in the mean, in nats; 0 where neither is the ODE.
    """

    first: str
    second: str
    mean: float
    stderr: float
    solver: float

    @property
    def agree(self) -> bool:
        """True if the mean is within three standard errors and the solver's error; False for one sample."""
        return abs(self.mean) <= _STANDARD_ERRORS * self.stderr + self.solver

    def verdict(self, scale: float = 1.0, unit: str = "nats") -> str:
        """One sentence: that the ways agree, or by how much they differ and which assumption fails.

        Args:
            scale: Factor from nats to the unit.
            unit: Unit of the differences.
        """
        by = with_error(scale * self.mean, abs(scale) * self.stderr)
        pair = f"{WAYS[self.second]} less {WAYS[self.first]}: {by} {unit}"
        if math.isnan(self.stderr):
            return f"{pair}; one sample does not tell whether they agree"
        if self.agree and abs(self.mean) > _STANDARD_ERRORS * self.stderr:
            return f"{pair}; they agree within the error of the ODE's solver, {abs(scale) * self.solver:.2g} {unit}"
        return f"{pair}; {'they agree within their errors' if self.agree else self._failing()}"

    def _failing(self) -> str:
        """The assumption that fails."""
        if {self.first, self.second} == {"elbo", "immse"}:
            return (
                "they differ at the ends of the λ range alone: noise at t_min is not small against the data, or t_max "
                "is too early for the prior"
            )
        return (
            "the scores are not those of one density that evolves into the prior, so that the ODE and the reverse SDE "
            "are different models"
        )


@dataclass(frozen=True)
class ThreeWays:
    """Log-densities of the same samples in three ways, in nats.

    Attributes:
        ode: By the probability-flow ODE, at t_min.
        elbo: By the evidence lower bound, at t_min.
        immse: By errors of denoising, of data without noise.
    """

    ode: LogLikelihood
    elbo: Bound
    immse: DenoisingInformation

    @property
    def log_prob(self) -> dict[str, Tensor]:
        """Log-densities `(B,)` by the names of `WAYS`."""
        return {"ode": self.ode.log_prob, "elbo": self.elbo.value, "immse": self.immse.log_prob}

    @cached_property
    def agreements(self) -> list[Agreement]:
        """Whether the ODE agrees with either of the others, and they with each other."""
        return agreement(self.log_prob, self.ode.solver_stderr)

    @property
    def agree(self) -> bool:
        """True if all three agree."""
        return all(each.agree for each in self.agreements)

    @property
    def verdicts(self) -> list[str]:
        """A sentence for each pair: whether they agree, or which assumption fails."""
        return [each.verdict() for each in self.agreements]

    def _means(self) -> dict[str, str]:
        """The mean of each way with its standard error, of which the solver of the ODE has a share."""
        means = {name: mean_with_error(values) for name, values in self.log_prob.items()}
        return {**means, "ode": with_error(*mean_and_error(self.ode.log_prob, self.ode.solver_stderr))}

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {mean}" for name, mean in self._means().items())
        n = len(self.elbo.value)
        said = "" if n == 1 else f", {'agree' if self.agree else 'do not agree'}"
        return f"ThreeWays({means} nats, n={n}{said})"

    def _repr_html_(self) -> str:
        rows = [(WAYS[name], f"{mean} nats") for name, mean in self._means().items()]
        return table("Log-density in three ways", rows, ". ".join(self.verdicts) + ".")


def agreement(log_prob: dict[str, Tensor], solver_stderr: Tensor) -> list[Agreement]:
    """Whether three ways agree, pair by pair.

    Args:
        log_prob: Log-densities `(B,)` in nats by the names of `WAYS`.
        solver_stderr: Standard errors of the first, the ODE, from its solver, `(B,)`.
    """
    solver = shared_error(solver_stderr)
    pairs = (("ode", "elbo", solver), ("ode", "immse", solver), ("elbo", "immse", 0.0))
    made = []
    for first, second, error in pairs:
        difference = PairedDifference(log_prob[first].double(), log_prob[second].double())
        made.append(Agreement(first, second, difference.mean, difference.stderr, error))
    return made


@checked
@torch.no_grad()
def three_ways(
    model: ScoreModel,
    x: Tensor,
    *,
    draws: int = 64,
    seed: int = 0,
    first: int = 0,
    divergence: Divergence | None = None,
    prior: Literal["matched", "plain"] = "matched",
    options: FlowOptions | None = None,
    **keywords: Any,
) -> ThreeWays:
    """The log-densities of x by the probability-flow ODE, the ELBO and denoising errors.

    Discrete data are to be dequantised first, such as by `transform.encode(pixels, noise)`: all three are densities.

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units, as for `log_likelihood`; held-out data for a trained model.
        draws: Number of noise levels of `denoising_information`, with two evaluations each, and half the number of
            those of `elbo`, with one.
        seed: Seed of probes and draws.
        first: Index of the first sample.
        divergence: The divergence of `log_likelihood`.
        prior: Density at t_max of the first two.
        options: Options of `log_likelihood`; the bounds take those that they know.
        **keywords: These options by name, and conditions of the model.

    Raises:
        ValueError: As `log_likelihood` and `denoising_information`.
        LikelihoodError: As they.
    """
    flow, cond = FlowOptions.split(three_ways, model, options, keywords)
    common: dict[str, Any] = {"seed": seed, "first": first, **cond}
    bound = FlowOptions(t_min=flow.t_min, t_max=flow.t_max, batch_size=flow.batch_size)
    ode = log_likelihood(model, x, divergence=divergence, prior=prior, options=flow, **common)
    lower = elbo(model, x, draws=2 * draws, prior=prior, options=bound, **common)
    return ThreeWays(ode, lower, denoising_information(model, x, draws=draws, options=bound, **common))
