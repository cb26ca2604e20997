"""The log-densities of samples from the steps of their paths."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.nodes import NodeRule, Nodes
from scoresde.likelihood.prior import prior_log_prob
from scoresde.likelihood.traces import NodeTraces, TraceEstimates, sum_by
from scoresde.numerics.ode import AcceptedSteps

__all__ = ["Integral"]

# Standard errors of the quadrature of a step over the size that `NodeRule.error` gives: under an exact score and under
# a network, by exact traces and by the squares of the noise. They were found on mixtures of nine kinds and on an MLP,
# so that about 95 % of the errors of the most difficult kind lie within two standard errors.
_RULE_ERRORS = {True: (0.2, 0.5), False: (0.15, 0.3)}
# Standard errors of the lag: of its integral under an exact score, where it is corrected, and of the path of a network.
_LAG_ERRORS = {True: 0.05, False: 1.0}

# Roundings of a state on its way, beside one of the model.
_STATE_ROUNDINGS = 7.0

Done = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class Integral:
    """The log-densities of samples whose steps are added, in any order.

    A step adds its nodes. Once samples with enough nodes have arrived, the traces at all of their nodes are estimated
    in one batch and summed:

        log p = log p_T(z) + (log-scale of normal data) + Σ weight (α σ̃ tr ∂ε/∂x − tr σ̃² (Σ + σ̃²)^(−1)).

    A computed path follows the noise ε' = (dx̃/dτ)/σ̃ in place of ε, and along any path to its own code z

        log p = (the above) + ∫ ε · (ε' − ε) dτ

    if −ε/σ is the gradient of log p_t, since log p_t changes by the gradient times what the path moves beside the flow.
    That term, the lag, is added for an exact score, whose densities then depend on no error of the path. A network's
    score is only nearly the gradient of its own log p_t. There the term tells how large the error of the path is, and
    if it is added, with the option `corrected`, a part of the error is left.

    Args:
        flow: The flow that the steps follow.
        rule: Quadrature rule on a step.
        traces: Estimator of the traces at nodes.
        prior: Density of the codes, `"matched"` or `"plain"`.
        done: Called with indices, log-densities, and their standard errors from probes and from the solver, `(b,)`
            each, of samples as they are done.

    Attributes:
        value: `(B,)` float64, log-densities; NaN until a sample is done.
        variance: `(B,)` float64, their variances from random probes.
        solver_error: `(B,)` float64, standard errors from steps and nodes.
        latent: `(B, D)` float64, codes.
        arrived: `(B,)`, True for samples whose path is complete.
    """

    def __init__(self, flow: Flow, rule: NodeRule, traces: NodeTraces, prior: str, done: Done) -> None:
        self.flow, self.rule, self.traces, self.prior, self.done = flow, rule, traces, prior, done
        count, device = flow.shape[0], flow.device
        self.latent = torch.full((count, flow.size), math.nan, dtype=torch.float64, device=device)
        self.value, self.variance, self.solver_error = torch.full(
            (3, count), math.nan, dtype=torch.float64, device=device
        )
        self.arrived = torch.zeros(count, dtype=torch.bool, device=device)
        self._nodes_of = torch.zeros(count, dtype=torch.int64, device=device)
        self._waiting: list[Nodes] = []
        self._ready = 0  # nodes of samples that have arrived

    def add(self, steps: AcceptedSteps) -> None:
        """Add steps that samples have taken."""
        nodes, ends = self.rule.on(steps, self._nodes_of)
        self._nodes_of[steps.rows] += self.rule.count
        self._waiting.append(nodes)
        final = steps.rows[steps.arrived]
        self.latent[final] = self.flow.to_x(self.flow.at_ends[1:], ends[steps.arrived])
        self.arrived[final] = True
        self._ready += int(self._nodes_of[final].sum())
        if self._ready >= self.flow.options.width:
            self.finish()

    def finish(self) -> None:
        """Sum the integrals of the samples that have arrived."""
        if not self._waiting:
            return
        nodes = Nodes.join(self._waiting)
        complete = self.arrived[nodes.rows]
        self._waiting, self._ready = [nodes[~complete]], 0
        nodes = nodes[complete].sorted()
        if not len(nodes.rows):
            return
        rows, steps = nodes.rows.unique_consecutive(return_counts=True)
        owner = torch.arange(len(rows), device=rows.device).repeat_interleave(steps)
        estimates = self.traces.estimate(nodes, owner, len(rows))
        integral = sum_by(owner, (nodes.weight * (estimates.value - nodes.normal)).sum(1), len(rows))
        lags = (nodes.weight * estimates.lag).sum(1)
        variance = _variance(nodes, estimates, owner, len(rows))
        square = sum_by(owner, self._rule_errors(nodes, estimates).square(), len(rows))
        if self.flow.model.exact or self.flow.options.corrected:
            integral = integral + sum_by(owner, lags, len(rows))
        square = square + _LAG_ERRORS[self.flow.model.exact] ** 2 * sum_by(owner, lags.square(), len(rows))
        unit = torch.finfo(self.flow.dtype).eps + _STATE_ROUNDINGS * torch.finfo(torch.float64).eps
        rounding = unit * nodes.weight * estimates.rounding
        square = square + sum_by(owner, rounding.square().sum(1), len(rows))
        log_prob = integral + prior_log_prob(self.flow, self.latent[rows], self.prior) + self.flow.log_scale()
        good = log_prob.isfinite()
        found = (self.value, log_prob), (self.variance, variance), (self.solver_error, square.sqrt())
        for values, new in found:
            values[rows] = torch.where(good, new, math.nan)
        if bool(good.any()):
            self.done(rows[good], log_prob[good], variance[good].sqrt(), square[good].sqrt())

    def _rule_errors(self, nodes: Nodes, estimates: TraceEstimates) -> Tensor:
        """Standard errors `(a,)` of the quadrature of steps.

        ‖ε‖² has the expectation of α σ̃ tr ∂ε/∂x (Stein's identity), and the same course along a path: a direction of
        variance v contributes σ̃²/(v + σ̃²) to the trace and that times a constant to ‖ε‖². Random probes do not disturb
        it, but it tells less of the trace than the trace itself where that is exact. The lag is an integrand too, and
        on a coarse path it is large where the trace happens to look smooth.
        """
        by_trace, by_square = _RULE_ERRORS[self.flow.model.exact]
        lag = self.rule.error(nodes, estimates.lag)
        of_square = self.rule.error(nodes, estimates.square - nodes.normal_square + estimates.lag)
        error = by_square * torch.hypot(of_square, lag)
        # `Auto` takes exact traces where its probes ask for them, on which this is not to depend.
        if estimates.probes is not None:
            return error
        exact = (estimates.variance == 0).all(1)
        of_trace = self.rule.error(nodes, estimates.value - nodes.normal + estimates.lag)
        return torch.where(exact, by_trace * torch.hypot(of_trace, lag), error)


def _variance(nodes: Nodes, estimates: TraceEstimates, owner: Tensor, count: int) -> Tensor:
    """The variances `(count,)` of the integrals from random probes.

    Most of a variance may be estimated from few numbers. So two standard errors are made those of Student's
    distribution, 2 (1 + 5/(4ν)) to first order, with ν degrees of freedom by Satterthwaite (1946).
    """
    weights = nodes.weight**2
    parts = weights * estimates.variance
    variance = sum_by(owner, parts.sum(1), count)
    if estimates.probes is None:
        doubts = weights.sum(1) ** 2 * estimates.doubt
    else:
        # The factor 1/(K + 1) makes the squares of variances from K probes unbiased.
        doubts = (parts**2 / (estimates.probes + 1)[:, None]).sum(1)
    return variance * (1 + 1.25 * sum_by(owner, doubts, count) / variance.square().clamp_min(1e-300)) ** 2
