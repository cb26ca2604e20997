"""Log-densities by the instantaneous change of variables.

Along the probability flow of `Flow`

    log p(x) = log p_T(z) + (contribution of normal data) + ∫ (α σ̃ tr ∂ε/∂x − tr σ̃² (Σ + σ̃²)^(−1)) dτ.

This is the textbook integral of docs/likelihood.md, plus four things: every sample has steps of its own; the integral
is taken by Gauss-Legendre nodes on the dense output of the steps, not by the solver; every node has fresh probes; and
the state is scaled by the data's covariance, so that normal data contribute in closed form. The path is solved by
evaluations of the model alone. So the error of a random estimate of the trace disturbs no step size.

References:
    Neural Ordinary Differential Equations (Chen et al. 2018), theorem 1, https://arxiv.org/abs/1806.07366
    Score-Based Generative Modeling through Stochastic Differential Equations (Song et al. 2021), section 4.3,
    https://arxiv.org/abs/2011.13456
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.errors import LikelihoodError, remedy, warn_caller
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.inputs import check_batch, state_dtype
from scoresde.likelihood.integral import Integral
from scoresde.likelihood.nodes import NodeRule
from scoresde.likelihood.options import FlowOptions
from scoresde.likelihood.suited_scaling import with_scaling
from scoresde.likelihood.traces import NodeTraces
from scoresde.numerics.html import counts, range_of, rms, table, with_error
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.ode import Solution, Status
from scoresde.numerics.trace import Divergence, Exact, Hutchinson
from scoresde.progress import Progress
from scoresde.score import ScoreModel

# Solves of a sample at most, and the ratio of their tolerances under an exact score, where the tolerance of the path is
# the root of that asked for, and under a network.
_ATTEMPTS, _FINER, _NETWORK_FINER = 3, 0.01, 0.1
# The standard error, in tolerances of a step, above which a sample is solved again, and that by probes or on the path
# of a network that is not corrected. Beside probes errors are estimated less well, and are more often too large; and on
# such a path a smaller tolerance for all samples is worth more than second solves for some.
_LIMIT, _FAR_LIMIT = 30.0, 100.0
# The standard error, in tolerances above the default, that no more than a share of samples exceeds without a warning.
_LOOSE, _SHARE = 10.0, 0.05
# Roundings of a log-density to the model's dtype below which its error is not reduced.
_ROUNDINGS = 100.0

__all__ = ["LogLikelihood", "log_likelihood"]


@dataclass(frozen=True)
class LogLikelihood:
    """Log-densities with their errors and costs; every tensor has one entry (row) for each sample.

    Attributes:
        log_prob: Log-densities at `t_min` in nats, `(B,)` float64.
        stderr: Standard errors of `log_prob` from random probes, `(B,)`; 0 for an exact divergence.
        solver_stderr: Standard errors of `log_prob` from the solver's steps and quadrature, `(B,)`, as estimated.
        latent: Ends of the paths at t_max, `(B, ...)`: codes as accurate as `log_prob` needs them. Those of an exact
            score may be coarse; `encode` gives codes to its tolerance.
        nfe: Forward evaluations of the model, including those of divergences, `(B,)` int64.
        divergences: Traces, `(B,)` int64.
        products: Vector-Jacobian products in the traces, `(B,)` int64.
        accepted: Accepted steps, `(B,)` int64.
        rejected: Rejected steps, `(B,)` int64.
        t_min: Time at which the density is taken.
    """

    log_prob: Tensor
    stderr: Tensor
    solver_stderr: Tensor
    latent: Tensor
    nfe: Tensor
    divergences: Tensor
    products: Tensor
    accepted: Tensor
    rejected: Tensor
    t_min: float

    @property
    def total_stderr(self) -> Tensor:
        """Standard errors of `log_prob` from probes and solver together, `(B,)`."""
        return torch.hypot(self.stderr, self.solver_stderr)

    def __repr__(self) -> str:
        mean, error = mean_and_error(self.log_prob, self.solver_stderr)
        return (
            f"LogLikelihood({mean:.4f} ± {error:.4f} nats, n={len(self.log_prob)}, "
            f"stderr per sample {self.stderr.mean():.2g} from probes, {self.solver_stderr.mean():.2g} from the solver, "
            f"nfe {self.nfe.double().mean():.0f}, "
            f"divergences {self.divergences.double().mean():.0f})"
        )

    def _repr_html_(self) -> str:
        return _html(self)


@checked
@torch.no_grad()
def log_likelihood(
    model: ScoreModel,
    x: Tensor,
    *,
    divergence: Divergence | None = None,
    seed: int = 0,
    first: int = 0,
    prior: Literal["matched", "plain"] = "matched",
    progress: bool = False,
    on_done: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    options: FlowOptions | None = None,
    **keywords: Any,
) -> LogLikelihood:
    """The log-densities of x at t_min, in the units of x.

    The state is float64. The model is called in its own dtype, float32 at least, without autocast. The result of a
    sample depends on `seed` and on its index, not on its batch mates.

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units: those of the model's `transform`, or model space where it has none.
        divergence: `Exact()`, `Hutchinson(probes)`, `Probing(colours)` or `Auto(stderr)`; `Hutchinson(1)` if not given.
            Where as many products give the exact trace, and up to 4 dimensions, the trace is exact.
        seed: Seed of the probes.
        first: Index of the first sample, for results that do not depend on how a data set is split up.
        prior: Density of the latent: `"matched"`, the Gaussian with the data's moments where the model knows
            them; `"plain"`, N(0, σ² I) as in the papers.
        progress: Show a progress bar.
        on_done: Called with indices in x, log-densities and standard errors, `(b,)` each, of samples as they are done.
        options: Accuracy and other options of the solve; the keywords below replace its values.
        **keywords: The options of `FlowOptions` (`tol`, `rtol`, `atol`, `t_min`, `t_max`, `method`, `variable`,
            `scaling`, `nodes`, `batch_size`). All others are conditions for the model; tensors of length B are split
            with the batch.

    Raises:
        ValueError: Samples that are not finite, tolerances that are not positive, or a time outside the SDE's interval.
        LikelihoodError: The path of a sample could not be followed, or its divergence is not finite. The error holds
            the results of the other samples.
    """
    options, cond = FlowOptions.split(log_likelihood, model, options, keywords)
    x, conditions = check_batch(model, x, cond, prior)
    divergence = (Hutchinson() if divergence is None else divergence).for_shape(tuple(x.shape[1:]))
    options = with_scaling(model, x.shape, conditions, options)
    flow = Flow(model, x.shape, conditions, options, x.device)
    start = flow.to_y(flow.at_ends[:1], model.to_model_space(x).flatten(1))
    index = torch.arange(first, first + len(x), device=x.device)
    with Progress(len(x), "likelihood", "sample", shown=progress) as bar:

        def done(rows: Tensor, values: Tensor, stderr: Tensor) -> None:
            bar.update(len(rows))
            if on_done is not None:
                on_done(rows, values, stderr)

        solver = _Solver(flow, start, options, divergence, prior, seed, index, done)
        solution = solver.solve()
    result = LogLikelihood(
        log_prob=solver.value,
        stderr=solver.variance.sqrt(),
        solver_stderr=solver.error,
        latent=solver.latent.reshape(x.shape).to(state_dtype(x)),
        nfe=solver.nfe,
        divergences=solver.traces,
        products=solver.products,
        accepted=solver.accepted,
        rejected=solver.rejected,
        t_min=flow.t_min,
    )
    broken = (solution.arrived & ~result.log_prob.isfinite()).nonzero()[:, 0]
    error = flow.lost(solution, start, first, result) or _not_finite(broken, start, solution, first, result)
    if error is not None:
        raise error
    solver.warn_of_errors()
    return result


class _Solver:
    """Solves that end when every sample's error is small enough.

    A sample whose solver error is found to be far above the tolerance is solved again at a smaller one, twice at most.
    That depends on its own path, and on its trace where this is exact, not on probes or other samples.

    Args:
        flow: The flow of all samples.
        start: States `(B, D)` where the paths start.
        options: Accuracy of the first solve.
        divergence: Estimator of the trace.
        prior: Density of the codes, `"matched"` or `"plain"`.
        seed: Seed of the probes.
        index: Indices of the samples, `(B,)`.
        done: Called with indices, log-densities and standard errors from probes, `(b,)` each, of samples as they are
            done.

    Attributes:
        value: Log-densities, `(B,)`.
        variance: Their variances from random probes, `(B,)`.
        error: Their standard errors from the solver, `(B,)`.
        latent: Codes, `(B, D)`.
        nfe, traces, products, accepted, rejected: Costs of all solves of a sample, `(B,)` int64 each.
    """

    def __init__(
        self,
        flow: Flow,
        start: Tensor,
        options: FlowOptions,
        divergence: Divergence,
        prior: str,
        seed: int,
        index: Tensor,
        done: Callable[[Tensor, Tensor, Tensor], None],
    ) -> None:
        self.flow, self.start, self.options, self.divergence = flow, start, options, divergence
        self.prior, self.seed, self.index, self.done = prior, seed, index, done
        self.value, self.variance, self.error = torch.full((3, len(start)), math.nan).to(start)
        self.latent = torch.full_like(start, math.nan)
        self.nfe, self.traces, self.products, self.accepted, self.rejected = torch.zeros(5, len(start)).to(index)
        tolerance = options.tolerance(flow.size)
        self.nats = math.inf if tolerance.nats is None else tolerance.nats

    def solve(self) -> Solution:
        """Solve for all samples; returns the ends of their first paths."""
        rows = torch.arange(len(self.start), device=self.start.device)
        # Nodes that are given are not to be outweighed by other steps.
        attempts = _ATTEMPTS if self.options.nodes is None and math.isfinite(self.nats) else 1
        first = self._round(rows, self.options, last=attempts == 1)
        finer = _FINER if self.flow.model.exact else _NETWORK_FINER
        for attempt in range(1, attempts):
            rows = self._too_large(self.value, self.error).nonzero()[:, 0]
            if not len(rows):
                break
            self._round(rows, replace(self.options, tol=self.nats * finer**attempt), last=attempt == attempts - 1)
        return first

    def _too_large(self, value: Tensor, error: Tensor) -> Tensor:
        """True for log-densities with an error far above the tolerance, and above what rounding makes of them."""
        rounding = _ROUNDINGS * torch.finfo(self.flow.dtype).eps * value.abs()
        corrected = self.flow.model.exact or self.options.corrected
        limit = _LIMIT if corrected and isinstance(self.divergence, Exact) else _FAR_LIMIT
        return error > rounding.clamp_min(limit * self.nats)

    def _round(self, rows: Tensor, options: FlowOptions, last: bool) -> Solution:
        """Solve for some samples, and hand on those whose error is small enough, or all in the last round."""
        flow = self.flow.for_rows(rows)
        plan = options.plan(flow.size, flow.model.exact)
        rule = NodeRule(flow, plan.method, plan.nodes)
        traces = NodeTraces(flow, self.divergence, rule.contrast, self.seed, self.index[rows])

        def done(which: Tensor, value: Tensor, stderr: Tensor, error: Tensor) -> None:
            kept = torch.ones_like(error, dtype=torch.bool) if last else ~self._too_large(value, error)
            if bool(kept.any()):
                self.done(rows[which[kept]], value[kept], stderr[kept])

        integral = Integral(flow, rule, traces, self.prior, done)
        longest = flow.longest_step(options.tolerance(flow.size), plan.nodes)
        start = self.start[rows]
        solution = flow.run(start, plan.tolerance, plan.method, on_steps=integral.add, longest=longest)
        integral.finish()
        # A path that cannot be followed at a smaller tolerance leaves the result at the larger one.
        kept = integral.value.isfinite() | self.value[rows].isnan()
        where = rows[kept]
        self.value[where], self.variance[where] = integral.value[kept], integral.variance[kept]
        self.error[where], self.latent[where] = integral.solver_error[kept], integral.latent[kept]
        if last and not bool(kept.all()):
            others = rows[~kept]
            self.done(others, self.value[others], self.variance[others].sqrt())
        self.nfe[rows] += solution.nfe + traces.forwards
        self.traces[rows] += traces.traces
        self.products[rows] += traces.products
        self.accepted[rows] += solution.accepted
        self.rejected[rows] += solution.rejected
        return solution

    def warn_of_errors(self) -> None:
        """Warn if the error of samples is still far above the tolerance, or that of many above one that is coarse.

        The second text is the same for all batches of a data set, so that it is shown once.
        """
        count = int(self._too_large(self.value, self.error).sum())
        if count:
            warn_caller(
                f"the solver's error of {count} of {len(self.error)} log-densities is far above tol={self.nats:.2g}, "
                f"up to {float(self.error.max()):.2g} nats (solver_stderr): give a smaller tol, or a larger t_min",
                RuntimeWarning,
            )
        default = FlowOptions().tolerance(self.flow.size).nats
        # Half of the errors of exact scores are a twentieth of what is stated, or less.
        coarse = default is not None and default < self.nats < math.inf and not self.flow.model.exact
        if coarse and not count and float((self.error > _LOOSE * self.nats).double().mean()) > _SHARE:
            warn_caller(
                f"tol={self.nats:.3g} nats bounds a step, not the result: more than {_SHARE:.0%} of the log-densities "
                f"may err by more than {_LOOSE * self.nats:.3g} nats (solver_stderr); give a smaller tol"
            )


def _not_finite(
    broken: Tensor, start: Tensor, solution: Solution, first: int, result: LogLikelihood
) -> LikelihoodError | None:
    """The error for samples whose path arrived, but whose divergence is not finite; None if there are none.

    Args:
        broken: Indices `(b,)` of these samples.
        start: States `(B, D)` where the paths started.
        solution: The end of each path.
        first: Index of the first sample.
        result: Results of all samples, for the error to hold.
    """
    if not len(broken):
        return None
    return LikelihoodError(
        f"the divergence is not finite for {len(broken)} of {len(start)} samples, the first of them sample "
        f"{first + int(broken[0])}{remedy(start[broken[0]])}",
        [first + i for i in broken.tolist()],
        solution.status.index_fill(0, broken, int(Status.NOT_FINITE)),
        result,
    )


def _html(out: LogLikelihood) -> str:
    """The mean log-density with its errors, and the costs, as HTML."""
    probes = bool((out.stderr > 0).any())
    rows = [
        ("mean over samples", f"{with_error(*mean_and_error(out.log_prob, out.solver_stderr))} nats"),
        ("of one sample", range_of(out.log_prob)),
        ("standard error from probes", f"{rms(out.stderr):.2g} nats a sample, RMS" if probes else "none, exact trace"),
        ("standard error from the solver", f"{rms(out.solver_stderr):.2g} nats a sample, RMS"),
        ("samples", f"{len(out.log_prob)}, of shape {tuple(out.latent.shape[1:])}"),
        ("density at t", f"{out.t_min:.3g}"),
        ("evaluations a sample", counts(out.nfe)),
        ("traces, products a sample", f"{counts(out.divergences)}; {counts(out.products)}"),
        ("steps, rejected", f"{counts(out.accepted)}; {counts(out.rejected)}"),
    ]
    return table("Log-likelihood", rows)
