"""Log-densities by the instantaneous change of variables (Chen et al. 2018, theorem 1; Song et al. 2021, section 4.3).

Along the probability flow of `Flow`

    log p(x) = log p_T(z) + (what normal data contribute) + ∫ (α σ̃ tr ∂ε/∂x − tr σ̃² (Σ + σ̃²)^(−1)) dτ.

The path is solved by evaluations of the model alone. The integral is then taken over each step by Gauss-Legendre
nodes on the step's dense output, all samples together. So what a random estimate of the trace errs by disturbs
no step size, and every node has probes of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scoresde import reprs
from scoresde.arguments import checked
from scoresde.divergence import Auto, Divergence, Exact, Hutchinson, Traces
from scoresde.likelihood.flow import Flow, LikelihoodError, Tolerance
from scoresde.likelihood.scaling import CovarianceScaling, Scaling
from scoresde.ode import Status, Steps
from scoresde.progress import Progress
from scoresde.sampling.coordinates import Coordinate
from scoresde.score import ScoreModel
from scoresde.tableaus import DORMAND_PRINCE, Tableau

__all__ = ["LogLikelihood", "log_likelihood", "mean_and_error"]

_BATCH = 512
# Bits of a node's index that tell it from others of its sample, and further probes there.
_NODES, _REPEATS = 16, 12
SHIFT = _NODES + _REPEATS
# Products at once when the modes of an exact trace are timed.
_TIMED = 512
# Of probes at a step, for `Auto`.
_NUMBERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


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
        return reprs.log_likelihood_html(self)


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
    method: Tableau = DORMAND_PRINCE,
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
        method: a Runge-Kutta pair with a dense output, as those of `scoresde.ode`.
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
    x = check(model, x, cond, prior)
    tolerance = tolerance_of(tol, rtol, atol, x[0].numel())
    if nodes is None:
        nodes = 3 if tolerance.nats is not None and tolerance.nats >= 2e-4 * x[0].numel() else 4
    if nodes < 1:
        raise ValueError(f"nodes is {nodes}, expected at least 1")
    batch_size = _BATCH if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    divergence = (Hutchinson() if divergence is None else divergence).for_shape(tuple(x.shape[1:]))
    flow = Flow(model, x.shape, cond, t_min, t_max, variable, scaling, x.device)
    with Progress(len(x), "likelihood", "sample", shown=progress) as bar:

        def done(rows: Tensor, values: Tensor, stderr: Tensor) -> None:
            bar.update(len(rows))
            if on_done is not None:
                on_done(rows, values, stderr)

        integral = _Integral(flow, method, divergence, nodes, batch_size, seed, first, prior, done)
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


def check(model: ScoreModel, x: Tensor, cond: dict[str, Any], prior: str = "matched") -> Tensor:
    """x on the model's device; arrays and lists among the conditions become tensors in place.

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
    cond.update(model.conditions(cond, len(x), x.device))
    return x


@dataclass
class _Block:
    """Nodes of steps, M of each, of one sample each: rows `(a,)`, the rest `(a, M)` and x `(a, M, ...)`."""

    rows: Tensor
    w: Tensor
    share: Tensor  # of the integral over τ
    scale: Tensor  # α σ̃, by which the trace of ∂ε/∂x is multiplied there
    base: Tensor  # what is taken away from that
    x: Tensor
    order: Tensor  # of the nodes in their sample

    def __getitem__(self, which: Tensor) -> "_Block":
        return _Block(*(v[which] for v in vars(self).values()))

    @staticmethod
    def join(blocks: list["_Block"]) -> "_Block":
        return _Block(*(torch.cat(parts) for parts in zip(*(vars(b).values() for b in blocks), strict=True)))


class _Integral:
    """The log-densities of samples whose steps are added, in any order."""

    def __init__(
        self,
        flow: Flow,
        method: Tableau,
        divergence: Divergence,
        nodes: int,
        batch_size: int,
        seed: int,
        first: int,
        prior: str,
        done: Callable[[Tensor, Tensor, Tensor], None],
    ) -> None:
        self.flow, self.divergence, self.batch_size, self.seed = flow, divergence, batch_size, seed
        self.first, self.prior, self.done = first, prior, done
        self.exact: Divergence = Exact()
        places, weights = np.polynomial.legendre.leggauss(nodes)
        device = flow.device
        self.places = torch.from_numpy(0.5 * (places + 1)).to(device)
        # The means of terms at neighbouring nodes lie on a smooth curve, their scatter about it is what probes make.
        self.trend = _trend(self.places)
        self.node_weights = torch.from_numpy(0.5 * weights).to(device)
        self.within = method.within(torch.cat((self.places.cpu(), torch.ones(1, dtype=torch.float64)))).to(device)
        count = flow.shape[0]
        # NaN until a sample has arrived.
        self.latent = torch.full((count, flow.size), math.nan, dtype=torch.float64, device=device)
        self.value, self.variance = torch.full((2, count), math.nan, dtype=torch.float64, device=device)
        self.order, self.forwards, self.traces, self.products = (
            torch.zeros(count, dtype=torch.int64, device=device) for _ in range(4)
        )
        self.arrived = torch.zeros(count, dtype=torch.bool, device=device)
        self.blocks: list[_Block] = []
        self.ready = 0

    def add(self, steps: Steps) -> None:
        """The nodes of steps that samples have taken."""
        flow, count = self.flow, len(self.places)
        # (S, M + 1) weights: the states at the nodes and at the end.
        moves = torch.zeros(count + 1, *steps.y.shape, dtype=steps.y.dtype, device=steps.y.device)
        for slope, weights in zip(steps.slopes, self.within.tolist(), strict=True):
            for move, weight in zip(moves, weights, strict=True):
                if weight:
                    move.add_(slope, alpha=weight)
        states = torch.addcmul(steps.y, steps.size[:, None].to(steps.y.dtype), moves)
        w = steps.start[:, None] + steps.size[:, None] * self.places
        place = flow.place(w)
        x = torch.stack([flow.to_x(place[:, k], states[k]) for k in range(count)], 1)
        share = steps.size[:, None] * self.node_weights * place.rate
        shrink = flow.spread.trace((place.level[..., None] / place.norm) ** 2)
        order = self.order[steps.rows, None] + torch.arange(count, device=flow.device)
        self.order[steps.rows] += count
        self.blocks.append(
            _Block(
                steps.rows,
                w,
                share,
                place.alpha * place.level,
                shrink,
                x.to(flow.dtype).reshape(*w.shape, *flow.shape[1:]),
                order,
            )
        )
        final = steps.rows[steps.arrived]
        self.latent[final] = flow.to_x(flow.at_ends[1:], states[-1][steps.arrived])
        self.arrived[final] = True
        self.ready += int(self.order[final].sum())
        if self.ready >= self.batch_size:
            self.finish()

    def finish(self) -> None:
        """The integrals of the samples that have arrived."""
        if not self.blocks:
            return
        block = _Block.join(self.blocks)
        whole = self.arrived[block.rows]
        self.blocks, self.ready = [block[~whole]], 0
        block = block[whole]
        if not len(block.rows):
            return
        # By sample, and in each along the path.
        block = block[(block.rows * 2**_NODES + block.order[:, 0]).argsort()]
        rows, each = block.rows.unique_consecutive(return_counts=True)
        owner = torch.arange(len(rows), device=rows.device).repeat_interleave(each)
        value, variance = self._sums(block, owner, len(rows))
        total = value + prior_log_prob(self.flow, self.latent[rows], self.prior) + self.flow.log_scale()
        good = total.isfinite()
        self.value[rows], self.variance[rows] = (torch.where(good, v, math.nan) for v in (total, variance))
        if bool(good.any()):
            self.done(rows[good], total[good], variance[good].sqrt())

    def _sums(self, block: _Block, owner: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The integral of each sample and its variance, `(count,)`."""

        def per_sample(values: Tensor) -> Tensor:
            return torch.zeros(count, dtype=torch.float64, device=values.device).index_add_(0, owner, values)

        self.divergence = self._prepared(self.divergence, block, count)
        traces, spread = self._evaluate(block, self.divergence)
        probes = None
        if isinstance(self.divergence, Auto):
            traces, spread, probes = self._refined(block, traces, spread, per_sample, owner, self.divergence.stderr)
        value = per_sample((block.share * (traces - block.base)).sum(1))
        parts = block.share**2 * spread
        variance = per_sample(parts.sum(1))
        if probes is not None:
            # Most of it may be what few probes tell, so that two standard errors are those of Student's distribution,
            # 2 (1 + 5/(4ν)) to first order, with ν by Satterthwaite (1946); K + 1 makes squares of v unbiased.
            squares = per_sample((parts**2 / (probes + 1)[:, None]).sum(1))
            variance = variance * (1 + 1.25 * squares / variance.square().clamp_min(1e-300)) ** 2
        return value, variance

    def _prepared(self, divergence: Divergence, block: _Block, samples: int) -> Divergence:
        """What to use for nodes like those of some samples, found out once."""
        flow, count = self.flow, block.w.numel()
        points = max(1, min(count, _TIMED // flow.size))
        which = torch.linspace(0, count - 1, points, device=flow.device).long()
        place, rows = flow.place(block.w.flatten()[which]), block.rows[which // block.w.shape[1]]
        with flow.model.evaluating():
            return divergence.for_field(
                flow.noise(place, rows),
                block.x.flatten(0, 1)[which],
                flow.model,
                count * flow.shape[0] // samples,
            )

    def _evaluate(self, block: _Block, divergence: Divergence, repeat: int = 0) -> tuple[Tensor, Tensor]:
        """Traces times `scale`, and their variances, `(a, M)`."""
        flow, (steps, count) = self.flow, block.w.shape
        value, variance = (torch.zeros(steps, count, dtype=torch.float64, device=flow.device) for _ in range(2))
        # A product costs about as much as an evaluation, and its memory.
        size = max(1, 4 * self.batch_size // (count * max(4, divergence.products(flow.size))))
        for start in range(0, steps, size):
            part = block[torch.arange(start, min(start + size, steps), device=flow.device)]
            found = self._traces(part, divergence, repeat)
            value[start : start + size] = part.scale * found.value.reshape(-1, count)
            variance[start : start + size] = _variances(found, part.scale, self.trend)
            rows = part.rows.repeat_interleave(count)
            ones = torch.ones_like(rows)
            self.forwards.index_add_(0, rows, ones)
            self.traces.index_add_(0, rows, ones)
            self.products.index_add_(0, rows, found.products * ones)
        return value, variance

    def _traces(self, part: _Block, divergence: Divergence, repeat: int) -> Traces:
        flow, count = self.flow, part.w.shape[1]
        place = flow.place(part.w.flatten())
        rows = part.rows.repeat_interleave(count)
        index = (((self.first + rows) * 2**_NODES + part.order.flatten()) * 2**_REPEATS + repeat).cpu()
        with flow.model.evaluating():
            return divergence.traces(flow.noise(place, rows), part.x.flatten(0, 1), self.seed, index, flow.known(place))

    def _refined(
        self,
        block: _Block,
        value: Tensor,
        variance: Tensor,
        per_sample: Callable[[Tensor], Tensor],
        owner: Tensor,
        target: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Other probes at every step, as many as leave each sample the standard error that is asked for.

        Returns the traces times `scale`, their variances, and the number of probes of every step.

        Their numbers are found from the first two, which do not count in the result: steps that seemed to need few by
        chance would be taken for more certain than they are.
        """
        deviation = (block.share**2 * variance).sum(1).sqrt()
        # For two probes; the variance of K is 2/K of it.
        wanted = 2 * deviation * per_sample(deviation)[owner] / target**2
        enough = per_sample(deviation**2)[owner] <= target**2
        value, variance = value.clone(), variance.clone()
        exact = (wanted > self.flow.size / 2) & ~enough
        # Few different numbers, so that there are few calls.
        sizes = torch.tensor(_NUMBERS, dtype=torch.float64, device=wanted.device)
        number = sizes[torch.searchsorted(sizes, wanted).clamp_max(len(_NUMBERS) - 1)].long()
        for count in number[~exact & ~enough].unique().tolist():
            which = ((number == count) & ~exact & ~enough).nonzero()[:, 0]
            value[which], variance[which] = self._evaluate(block[which], Hutchinson(count), repeat=1)
        which = exact.nonzero()[:, 0]
        if len(which):
            self.exact = self._prepared(self.exact, block[which], len(block.rows[which].unique()))
            value[which], variance[which] = self._evaluate(block[which], self.exact, repeat=1)
        return value, variance, number.masked_fill(enough, 2)


def _variances(found: Traces, scale: Tensor, trend: Tensor) -> Tensor:
    """Variances `(a, M)` of the traces times `scale` at the M nodes of a steps."""
    if found.variance is not None:
        return scale**2 * found.variance.reshape(scale.shape)
    assert found.terms is not None
    terms = scale[..., None] * found.terms.reshape(*scale.shape, -1)
    scatter = torch.einsum("m,amd->ad", trend, terms).square().sum(1)
    return (2 * scatter)[:, None].expand_as(scale)


def _trend(places: Tensor) -> Tensor:
    """Weights `(M,)` of length 1 that any polynomial of degree M − 2 in the M places sums to 0 with."""
    if len(places) == 1:
        # Nothing to tell a mean from scatter by: both are counted.
        return torch.ones_like(places)
    differences = torch.tensor(
        [1 / math.prod((p - q).item() for q in places if not torch.equal(q, p)) for p in places.cpu().unbind()],
        dtype=torch.float64,
    )
    return (differences / differences.norm()).to(places)


def prior_log_prob(flow: Flow, z: Tensor, prior: str) -> Tensor:
    """Log-density `(b,)` of codes `(b, D)` under N(α m, α² Σ + σ² I), or N(0, σ² I); Σ as far as the model knows it."""
    sde, statistics = flow.model.sde, flow.model.statistics
    t = torch.tensor(flow.t_max, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    if prior == "plain" or statistics is None:
        return -0.5 * (z**2 / sigma**2 + math.log(2 * math.pi * sigma**2)).sum(1)
    spread = CovarianceScaling().spread(statistics, flow.size).to(flow.device)
    centred, variance = z - alpha * flow.mean, (alpha**2 * spread.values + sigma**2)[None]
    square = (centred * spread.apply(1 / variance, centred)).sum(1)
    return -0.5 * (square + spread.trace((2 * math.pi * variance).log()))
