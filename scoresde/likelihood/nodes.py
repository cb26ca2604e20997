"""Quadrature nodes on the steps of paths."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.numbering import node_number
from scoresde.numerics.ode import AcceptedSteps
from scoresde.numerics.quadrature import gauss_legendre
from scoresde.numerics.tableaus import EmbeddedPair

__all__ = ["NodeRule", "Nodes"]


@dataclass(frozen=True)
class Nodes:
    """The nodes of a steps, M on each; one step belongs to one sample.

    Attributes:
        rows: Samples that took the steps, `(a,)`.
        w: Values of the time variable, `(a, M)`.
        weight: Weights of the nodes in the integral over τ, `(a, M)`.
        scale: Factors α σ̃ of the trace of ∂ε/∂x, `(a, M)`.
        normal: Contributions of normal data, tr σ̃² (Σ + σ̃²)^(−1), which are subtracted, `(a, M)`.
        x: States in model space, `(a, M, ...)`.
        followed: Noise predictions that the path would have if it were exact, `(a, M, D)`: (dx̃/dτ)/σ̃ along it.
        normal_square: Square ‖ε‖² of the noise of normal data, `(a, M)`.
        order: Places of the nodes in the path of their sample, `(a, M)`.
    """

    rows: Tensor
    w: Tensor
    weight: Tensor
    scale: Tensor
    normal: Tensor
    x: Tensor
    followed: Tensor
    normal_square: Tensor
    order: Tensor

    def __getitem__(self, steps: Tensor) -> "Nodes":
        return Nodes(*(v[steps] for v in vars(self).values()))

    @staticmethod
    def join(parts: list["Nodes"]) -> "Nodes":
        """The nodes of all parts, one after the other."""
        return Nodes(*(torch.cat(each) for each in zip(*(vars(p).values() for p in parts), strict=True)))

    def sorted(self) -> "Nodes":
        """The nodes by sample, and along the path of each sample."""
        return self[node_number(self.rows, self.order[:, 0]).argsort()]


class NodeRule:
    """A Gauss-Legendre rule on the dense output of steps.

    Args:
        flow: The flow whose paths are integrated along.
        method: Runge-Kutta pair that takes the steps.
        count: Number of nodes on a step.

    Attributes:
        count: Number of nodes on a step.
        legendre: The matrix `(M, M)` from values at the nodes to coefficients of Legendre's polynomials.
        contrast: Weights `(M,)` of length 1 with which the values of any polynomial of degree M − 2 at the nodes sum
            to 0. The expectation of a trace is a smooth function of time, so that this sum over the estimates at the
            nodes of a step consists of their random errors.
    """

    def __init__(self, flow: Flow, method: EmbeddedPair, count: int) -> None:
        self.flow, self.count = flow, count
        points, weights = gauss_legendre(count)
        device = flow.device
        self._points = (0.5 * (points + 1)).to(device)
        self._weights = (0.5 * weights).to(device)
        self.contrast = _contrast(self._points)
        self.legendre = torch.from_numpy(np.linalg.inv(np.polynomial.legendre.legvander(points.numpy(), count - 1))).to(
            device
        )
        inside = self._points.cpu()
        # At the nodes the states and their derivatives, and the states at the end.
        self._dense = torch.cat((method.within(inside), method.within(torch.ones(1)), method.rates_within(inside)), 1)

    def on(self, steps: AcceptedSteps, done: Tensor) -> tuple[Nodes, Tensor]:
        """The nodes on steps, and the states `(a, D)` at the ends of the steps.

        Args:
            steps: The steps.
            done: Number of earlier nodes of every sample, `(B,)`.
        """
        flow, count = self.flow, self.count
        # (S, 2 M + 1) weights: the states at the nodes and at the end, and the derivatives at the nodes.
        moves = torch.zeros(2 * count + 1, *steps.y.shape, dtype=steps.y.dtype, device=steps.y.device)
        for slope, weights in zip(steps.slopes, self._dense.tolist(), strict=True):
            for move, weight in zip(moves, weights, strict=True):
                if weight:
                    move.add_(slope, alpha=weight)
        states = torch.addcmul(steps.y, steps.size[:, None].to(steps.y.dtype), moves[: count + 1])
        slopes = moves[count + 1 :]
        w = steps.start[:, None] + steps.size[:, None] * self._points
        place = flow.place(w)
        x = torch.stack([flow.to_x(place[:, k], states[k]) for k in range(count)], 1)
        normal_square = torch.stack(
            [flow.normal_noise(place[:, k], states[k]).square().sum(1) for k in range(count)], 1
        )
        followed = torch.stack([flow.followed(place[:, k], states[k], slopes[k]) for k in range(count)], 1)
        nodes = Nodes(
            rows=steps.rows,
            w=w,
            weight=steps.size[:, None] * self._weights * place.rate,
            scale=place.alpha * place.level,
            normal=flow.spread.trace((place.level[..., None] / place.norm) ** 2),
            x=x.to(flow.dtype).reshape(*w.shape, *flow.shape[1:]),
            followed=followed,
            normal_square=normal_square,
            order=done[steps.rows, None] + torch.arange(count, device=flow.device),
        )
        return nodes, states[-1]

    def error(self, nodes: Nodes, integrand: Tensor) -> Tensor:
        """The sizes `(a,)`, up to a factor, of the errors of the rule on steps for an integrand `(a, M)` over τ.

        Of the coefficients A of Legendre's polynomials M are known, and the rule errs by those of degree 2 M and above.
        How fast they fall is told by the share of the last one, |A_{M−1}|/‖A‖. So the result is |A_{M−1}| times the
        root of that share, the form that QUADPACK has for the difference of two rules. True errors lie around it, times
        a factor (`Integral`), within one order of magnitude: values at M nodes do not tell more.

        References:
            QUADPACK (Piessens et al. 1983), https://doi.org/10.1007/978-3-642-61786-7
        """
        found = nodes.weight / self._weights * integrand @ self.legendre.mT
        last, size = found[:, -1].abs(), found.square().sum(1).sqrt()
        return last * (last / size.clamp_min(1e-300)).sqrt()


def _contrast(points: Tensor) -> Tensor:
    """The weights of a divided difference over all points `(M,)`, of length 1."""
    if len(points) == 1:
        # Nothing tells a mean from its random error: both are counted.
        return torch.ones_like(points)
    differences = torch.tensor(
        [1 / math.prod((p - q).item() for q in points if not torch.equal(q, p)) for p in points.cpu().unbind()],
        dtype=torch.float64,
    )
    weights: Tensor = differences / differences.norm()
    return weights.to(points)
