"""The integral of the divergence along the probability-flow ODE."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.scaling import CovarianceScaling
from scoresde.numerics.ode import AcceptedSteps
from scoresde.numerics.tableaus import EmbeddedPair
from scoresde.numerics.trace import Auto, Divergence, Exact, Hutchinson, Traces

BATCH = 512

# Bits of a node's index that tell it from others of its sample, and further probes there.
_NODES, _REPEATS = 16, 12

SHIFT = _NODES + _REPEATS

# Products at once when the modes of an exact trace are timed.
_TIMED = 512

# Of probes at a step, for `Auto`.
_NUMBERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


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


class Integral:
    """The log-densities of samples whose steps are added, in any order."""

    def __init__(
        self,
        flow: Flow,
        method: EmbeddedPair,
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

    def add(self, steps: AcceptedSteps) -> None:
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
