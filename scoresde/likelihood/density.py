"""Log-densities by the instantaneous change of variables (Chen et al. 2018, theorem 1; Song et al. 2021, section 4.3).

Along the probability flow of `Flow`

    log p(x) = log p_T(z) + (what normal data contribute) + ∫ (α σ̃ tr ∂ε/∂x − tr σ̃² (Σ + σ̃²)^(−1)) dτ.

The path is solved by evaluations of the model alone. The integral is then taken over each step by Gauss-Legendre
nodes on the step's dense output, all samples together. So what a random estimate of the trace errs by disturbs
no step size, and every node has probes of its own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.flow import Flow, LikelihoodError, Tolerance
from scoresde.likelihood.integral import BATCH, Integral
from scoresde.likelihood.scaling import Scaling
from scoresde.numerics.html import counts, mean_with_error, range_of, rms, table
from scoresde.numerics.ode import Status
from scoresde.numerics.tableaus import DORMAND_PRINCE, EmbeddedPair
from scoresde.numerics.trace import Divergence, Hutchinson
from scoresde.progress import Progress
from scoresde.score import Conditions, ScoreModel
from scoresde.sde.coordinates import Coordinate

__all__ = ["LogLikelihood", "log_likelihood", "mean_and_error"]


@dataclass(frozen=True)
class LogLikelihood:
    """Log-densities and how they came about; every tensor has one entry (row) per sample.

    Attributes:
        log_prob: `(B,)` float64, nats, of the density at `t_min`.
        stderr: `(B,)`, standard error of `log_prob` from random probes; 0 for an exact divergence.
        latent: `(B, ...)`, the code at t_max.
        nfe: `(B,)` int64, forward evaluations of the model, those of divergences among them.
        divergences: `(B,)` int64, traces.
        products: `(B,)` int64, vector-Jacobian products in these.
        accepted: `(B,)` int64, steps.
        rejected: `(B,)` int64, steps tried in vain.
        t_min: the time at which the density is taken.
    """

    log_prob: Tensor
    stderr: Tensor
    latent: Tensor
    nfe: Tensor
    divergences: Tensor
    products: Tensor
    accepted: Tensor
    rejected: Tensor
    t_min: float

    def __repr__(self) -> str:
        mean, error = mean_and_error(self.log_prob)
        return (
            f"LogLikelihood({mean:.4f} ± {error:.4f} nats, n={len(self.log_prob)}, "
            f"probe stderr {self.stderr.mean():.2g} per sample, nfe {self.nfe.double().mean():.0f}, "
            f"divergences {self.divergences.double().mean():.0f})"
        )

    def _repr_html_(self) -> str:
        return _html(self)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean over samples and its standard error (not a number for a single sample)."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error


@checked
@torch.no_grad()
def log_likelihood(
    model: ScoreModel,
    x: Tensor,
    *,
    tol: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    divergence: Divergence | None = None,
    seed: int = 0,
    first: int = 0,
    t_min: float | None = None,
    t_max: float | None = None,
    prior: Literal["matched", "plain"] = "matched",
    method: EmbeddedPair = DORMAND_PRINCE,
    variable: Coordinate | None = None,
    scaling: Scaling | None = None,
    nodes: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    on_done: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    **cond: Any,
) -> LogLikelihood:
    """Log-density of x at t_min, in the units of x.

    The state is float64 and the model is called in its own dtype, float32 at least, without autocast. A sample's
    result depends on `seed` and on its index, not on its batch mates.

    Args:
        model: the score model.
        x: `(B, ...)` in the data's units: those of the model's `transform`, or model space where it has none.
        tol: how much a step may move the log-density of a sample, in nats; 1e-4 for each dimension if nothing is given.
        rtol: relative tolerance of the state, whose scale is 1, instead of tol; 1e-5 if only atol is given.
        atol: absolute tolerance of the state, instead of tol; 1e-5 if only rtol is given.
        divergence: `Exact()`, `Hutchinson(probes)`, `Probing(colours)` or `Auto(stderr)`; `Hutchinson(1)` if not given.
            Where as many products give the exact trace, and up to 4 dimensions, that is taken.
        seed: of the probes.
        first: index of the first sample, for results that do not depend on how a data set is split up.
        t_min: where the density is taken; the SDE's `t_min` if not given.
        t_max: where the latent is taken; the SDE's `t_max` if not given.
        prior: density of the latent: `"matched"`, the Gaussian with the data's moments where the model knows
            them; `"plain"`, N(0, σ² I) as in the papers.
        method: a Runge-Kutta pair with a dense output, as those of `scoresde.numerics.ode`.
        variable: the time variable; log σ̃ for networks and the `Angle` of the data's standard deviation for exact
            scores if not given.
        scaling: of the state; `ScalarScaling()` if not given.
        nodes: Gauss-Legendre nodes of a step; more than 4 are more than the dense output of order 4 is worth. If not
            given 3 for a tol from 2e-4 nats for each dimension on, where they err no more than 4, which else are taken.
        batch_size: samples, and traces, to work on at once; 512 if not given.
        progress: show a progress bar.
        on_done: is given places in x, log-densities and standard errors, `(b,)` each, of samples as they are done.
        **cond: conditions for the model; tensors of length B are split with the batch.

    Raises:
        ValueError: samples that are not finite, tolerances that are not positive, or a time outside the SDE's interval.
        LikelihoodError: the path of a sample could not be followed, or its divergence is not finite. It holds the
            results of the others.
    """
    x, conditions = check_batch(model, x, cond, prior)
    tolerance = tolerance_of(tol, rtol, atol, x[0].numel())
    if nodes is None:
        nodes = 3 if tolerance.nats is not None and tolerance.nats >= 2e-4 * x[0].numel() else 4
    if nodes < 1:
        raise ValueError(f"nodes is {nodes}, expected at least 1")
    batch_size = BATCH if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    divergence = (Hutchinson() if divergence is None else divergence).for_shape(tuple(x.shape[1:]))
    flow = Flow(model, x.shape, conditions, t_min, t_max, variable, scaling, x.device)
    with Progress(len(x), "likelihood", "sample", shown=progress) as bar:

        def done(rows: Tensor, values: Tensor, stderr: Tensor) -> None:
            bar.update(len(rows))
            if on_done is not None:
                on_done(rows, values, stderr)

        integral = Integral(flow, method, divergence, nodes, batch_size, seed, first, prior, done)
        y = flow.to_y(flow.at_ends[:1], model.to_model_space(x).flatten(1))
        longest = flow.longest_step(tolerance, nodes)
        solution = flow.run(y, tolerance, method, width=batch_size, on_steps=integral.add, longest=longest)
        integral.finish()
    found = LogLikelihood(
        log_prob=integral.value,
        stderr=integral.variance.sqrt(),
        latent=integral.latent.reshape(x.shape).to(state_dtype(x)),
        nfe=solution.nfe + integral.forwards,
        divergences=integral.traces,
        products=integral.products,
        accepted=solution.accepted,
        rejected=solution.rejected,
        t_min=flow.t_min,
    )
    error = flow.lost(solution, y, first, found)
    broken = (integral.arrived & ~found.log_prob.isfinite()).nonzero()[:, 0]
    if error is None and len(broken):
        error = LikelihoodError(
            f"the divergence is not finite for {len(broken)} of {len(x)} samples, the first of them sample "
            f"{first + int(broken[0])}{flow.remedy(y[broken[0]])}",
            [first + i for i in broken.tolist()],
            solution.status.index_fill(0, broken, int(Status.NOT_FINITE)),
            found,
        )
    if error is not None:
        raise error
    return found


def state_dtype(x: Tensor) -> torch.dtype:
    """That of codes and data: as of x, but float32 at least, for half precision is too coarse for them."""
    return torch.promote_types(x.dtype, torch.float32)


def tolerance_of(tol: float | None, rtol: float | None, atol: float | None, size: int) -> Tolerance:
    """What is asked for, for samples of `size` numbers; ValueError for both kinds, or what is not positive."""
    if tol is not None and not (rtol is None and atol is None):
        raise ValueError(f"got tol={tol} beside rtol={rtol} and atol={atol}: give one or the others")
    if rtol is None and atol is None:
        return Tolerance(1e-4 * size if tol is None else tol)
    return Tolerance(None, 1e-5 if rtol is None else rtol, 1e-5 if atol is None else atol)


def check_batch(
    model: ScoreModel, x: Tensor, cond: Mapping[str, Any], prior: str = "matched"
) -> tuple[Tensor, Conditions]:
    """x on the model's device, and its conditions.

    Raises:
        ValueError: what is not a batch of finite numbers, conditions of another length, or an unknown prior.
    """
    if prior not in ("matched", "plain"):
        raise ValueError(f"prior is {prior!r}, expected 'matched' or 'plain'")
    if not x.is_floating_point():
        raise ValueError(
            f"x has dtype {x.dtype}, expected floating point in model space: bits_per_dim takes pixels, and "
            "model.info.transform.encode(pixels) their place there"
        )
    if x.ndim < 2 or x.shape[0] < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, ...) with at least one sample")
    broken = (~x.flatten(1).isfinite().all(1)).nonzero()[:, 0]
    if len(broken):
        raise ValueError(
            f"x has values that are not finite in {len(broken)} of {len(x)} samples, the first of them sample "
            f"{int(broken[0])}: remove those first"
        )
    x = model.on_device(x)
    return x, model.conditions(cond, len(x), x.device)


def _html(out: LogLikelihood) -> str:
    """Mean log-density with its error bars, and what it cost."""
    probes = bool((out.stderr > 0).any())
    rows = [
        ("mean over samples", f"{mean_with_error(out.log_prob)} nats"),
        ("of one sample", range_of(out.log_prob)),
        ("standard error from probes", f"{rms(out.stderr):.2g} nats a sample, RMS" if probes else "none, exact trace"),
        ("samples", f"{len(out.log_prob)}, of shape {tuple(out.latent.shape[1:])}"),
        ("density at t", f"{out.t_min:.3g}"),
        ("evaluations a sample", counts(out.nfe)),
        ("traces, products a sample", f"{counts(out.divergences)}; {counts(out.products)}"),
        ("steps, rejected", f"{counts(out.accepted)}; {counts(out.rejected)}"),
    ]
    return table("Log-likelihood", rows)
