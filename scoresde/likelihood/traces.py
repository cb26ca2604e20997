"""Traces of the model's Jacobian at the nodes of paths, with their variances."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.nodes import Nodes
from scoresde.likelihood.numbering import node_number
from scoresde.numerics.trace import Auto, Divergence, Exact, Hutchinson, Traces

__all__ = ["NodeTraces", "TraceEstimates", "sum_by"]

# Products of which the modes of an exact trace are timed at once.
_TIMED_PRODUCTS = 512

# Numbers of probes at a step that `Auto` chooses from: few, so that there are few calls.
_PROBES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class TraceEstimates:
    """Estimates at the M nodes of a steps.

    Attributes:
        value: α σ̃ tr ∂ε/∂x, `(a, M)`.
        variance: Variances of the values, `(a, M)`.
        square: ‖ε‖², `(a, M)`.
        lag: ε · (ε' − ε), with ε' the noise that the path follows, `(a, M)`.
        rounding: What rounding of x and ε to one part may change the lag by, ‖ε (|x|/(α σ̃) + |ε|)‖, `(a, M)`.
        doubt: Half of the variance that `variance` itself has, the same at all nodes of a step, where it was estimated
            from their scatter, `(a,)`; 0 where it was estimated at each node.
        probes: Number of probes at each node of a step, `(a,)`, where it was chosen for each step.
    """

    value: Tensor
    variance: Tensor
    square: Tensor
    lag: Tensor
    rounding: Tensor
    doubt: Tensor
    probes: Tensor | None = None


def sum_by(owner: Tensor, values: Tensor, count: int) -> Tensor:
    """The sums `(count,)` of the values `(a,)` that belong to each owner."""
    return torch.zeros(count, dtype=torch.float64, device=values.device).index_add_(0, owner, values)


def _chooses(divergence: Divergence) -> bool:
    """True for exact traces of which nothing says how they are computed."""
    return isinstance(divergence, Exact) and divergence.mode == "auto" and divergence.chunk is None


class NodeTraces:
    """Estimates of traces at nodes, and what they cost.

    Args:
        flow: The flow whose paths the nodes are on.
        divergence: Estimator of the trace.
        contrast: Weights by which random errors are told from a smooth function of time; see `NodeRule`.
        seed: Seed of the probes.
        index: Indices of the samples, `(B,)`.

    Attributes:
        forwards: `(B,)` int64, evaluations of the model so far.
        traces: `(B,)` int64, traces so far.
        products: `(B,)` int64, vector-Jacobian products so far.
    """

    def __init__(self, flow: Flow, divergence: Divergence, contrast: Tensor, seed: int, index: Tensor) -> None:
        self.flow, self.divergence, self.contrast, self.seed, self.index = flow, divergence, contrast, seed, index
        self.forwards, self.traces, self.products = (
            torch.zeros(flow.shape[0], dtype=torch.int64, device=flow.device) for _ in range(3)
        )
        self._exact: Divergence = Exact()
        self._closed = False  # whether the model has exact traces in closed form

    def estimate(self, nodes: Nodes, owner: Tensor, count: int) -> TraceEstimates:
        """The traces at all nodes of some samples.

        Args:
            nodes: Nodes of a steps.
            owner: The samples that took the steps, numbered from 0, `(a,)`.
            count: Number of these samples.
        """
        self.divergence = self._fitted(self.divergence, nodes, count)
        found = self._evaluated(nodes, self.divergence)
        if isinstance(self.divergence, Auto):
            return self._refined(nodes, found, owner, count, self.divergence.stderr)
        return found

    def _fitted(self, divergence: Divergence, nodes: Nodes, samples: int) -> Divergence:
        """The divergence in the mode that is fastest for nodes like those of some samples, found out once."""
        flow, count = self.flow, nodes.w.numel()
        points = max(1, min(count, _TIMED_PRODUCTS // flow.size))
        chosen = torch.linspace(0, count - 1, points, device=flow.device).long()
        place, rows = flow.place(nodes.w.flatten()[chosen]), nodes.rows[chosen // nodes.w.shape[1]]
        with flow.model.evaluating():
            # `Auto` counts products, and takes exact traces where its probes ask for them.
            if _chooses(self.divergence):
                self._closed = flow.closed_traces(place, rows, nodes.x.flatten(0, 1)[chosen]) is not None
                if self._closed:
                    return divergence
            return divergence.for_field(
                flow.noise(place, rows),
                nodes.x.flatten(0, 1)[chosen],
                flow.model,
                count * flow.shape[0] // samples,
            )

    def _evaluated(self, nodes: Nodes, divergence: Divergence, repeat: int = 0) -> TraceEstimates:
        """The estimates by a divergence, in as many calls as the batch size asks for."""
        flow, (steps, count) = self.flow, nodes.w.shape
        value, variance, square, lag, rounding = torch.zeros(5, steps, count, dtype=torch.float64, device=flow.device)
        doubt = torch.zeros(steps, dtype=torch.float64, device=flow.device)
        # A product costs about as much as an evaluation, and as much memory.
        products = 0 if self._closed and _chooses(divergence) else divergence.products(flow.size)
        size = max(1, 4 * flow.options.width // (count * max(4, products)))
        for start in range(0, steps, size):
            part = nodes[torch.arange(start, min(start + size, steps), device=flow.device)]
            found = self._traces(part, divergence, repeat)
            value[start : start + size] = part.scale * found.value.reshape(-1, count)
            variance[start : start + size], doubt[start : start + size] = self._variances(found, part.scale)
            noise = found.field.double().reshape(part.followed.shape)
            square[start : start + size] = noise.square().sum(2)
            lag[start : start + size] = (noise * (part.followed - noise)).sum(2)
            size_of_x = part.x.double().flatten(2).abs() / part.scale[..., None]
            rounding[start : start + size] = (noise * (size_of_x + noise.abs())).square().sum(2).sqrt()
            rows = part.rows.repeat_interleave(count)
            ones = torch.ones_like(rows)
            self.forwards.index_add_(0, rows, ones)
            self.traces.index_add_(0, rows, ones)
            self.products.index_add_(0, rows, found.products * ones)
        return TraceEstimates(value, variance, square, lag, rounding, doubt)

    def _traces(self, nodes: Nodes, divergence: Divergence, repeat: int) -> Traces:
        flow = self.flow
        place = flow.place(nodes.w.flatten())
        rows = nodes.rows.repeat_interleave(nodes.w.shape[1])
        with flow.model.evaluating():
            if self._closed and _chooses(divergence):
                closed = flow.closed_traces(place, rows, nodes.x.flatten(0, 1))
                assert closed is not None
                return closed
            number = node_number(self.index[rows], nodes.order.flatten(), repeat).cpu()
            return divergence.traces(
                flow.noise(place, rows), nodes.x.flatten(0, 1), self.seed, number, flow.known(place)
            )

    def _variances(self, found: Traces, scale: Tensor) -> tuple[Tensor, Tensor | float]:
        """Variances `(a, M)` of the traces times `scale`, and half of the variances `(a,)` of these."""
        if found.variance is not None:
            return scale**2 * found.variance.reshape(scale.shape), 0.0
        assert found.terms is not None
        terms = scale[..., None] * found.terms.reshape(*scale.shape, -1)
        squares = torch.einsum("m,amd->ad", self.contrast, terms).square()
        # The square of a normal number of variance v has the variance 2 v², and its own square the mean 3 v²: 4/3 if
        # terms are independent, and 8/3 if they are alike in pairs, as those of a J with few entries off the diagonal.
        return (2 * squares.sum(1))[:, None].expand_as(scale), 8 / 3 * squares.square().sum(1)

    def _refined(self, nodes: Nodes, first: TraceEstimates, owner: Tensor, count: int, target: float) -> TraceEstimates:
        """Estimates with as many probes at every step as give each sample the standard error `target`.

        The numbers of probes follow from the first estimates, with two probes, which are not used in the result: steps
        that seemed to need few by chance would be taken for more certain than they are.
        """
        deviation = (nodes.weight**2 * first.variance).sum(1).sqrt()
        # The least total for the standard error asked for has probes in proportion to a step's deviation. These are
        # of two probes; the variance with K is 2/K of it.
        wanted = 2 * deviation * sum_by(owner, deviation, count)[owner] / target**2
        enough = sum_by(owner, deviation**2, count)[owner] <= target**2
        value, variance = first.value.clone(), first.variance.clone()
        exact = (wanted > self.flow.size / 2) & ~enough
        sizes = torch.tensor(_PROBES, dtype=torch.float64, device=wanted.device)
        probes = sizes[torch.searchsorted(sizes, wanted).clamp_max(len(_PROBES) - 1)].long()
        for number in probes[~exact & ~enough].unique().tolist():
            steps = ((probes == number) & ~exact & ~enough).nonzero()[:, 0]
            again = self._evaluated(nodes[steps], Hutchinson(number), repeat=1)
            value[steps], variance[steps] = again.value, again.variance
        steps = exact.nonzero()[:, 0]
        if len(steps):
            self._exact = self._fitted(self._exact, nodes[steps], len(nodes.rows[steps].unique()))
            again = self._evaluated(nodes[steps], self._exact, repeat=1)
            value[steps], variance[steps] = again.value, again.variance
        return replace(first, value=value, variance=variance, probes=probes.masked_fill(enough, 2))
