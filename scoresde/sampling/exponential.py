"""Exponential Runge-Kutta methods in λ = log(α/σ), for the probability-flow ODE and the reverse SDE.

With the data prediction D, u = x/α obeys du = −ℓ (u − D) dλ + τ √2 s dW, where s = σ/α and ℓ = 1 + τ²; with the
noise prediction ε, v = x/σ obeys dv = (v − ℓ ε) dλ + τ √2 dW. Both are semilinear, dy = (L y + N) dλ + noise: the
linear part and the noise are integrated exactly, N by a Runge-Kutta method whose coefficients are φ-functions
of z = L h (Hochbruck & Ostermann 2005). τ = 0 is the ODE, τ = 1 Anderson's reverse SDE; every τ has the same
marginals.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.phi import phi
from scoresde.numerics.values import Value, not_negative, one_of
from scoresde.sampling.runge_kutta import advance, stage_times
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import LogSNR

__all__ = ["RES", "SEEDS", "DPMSolverSinglestep", "ExponentialRungeKutta", "ExponentialTableau"]

PredictionKind = Literal["data", "noise"]
# Terms (f, m, c), the sum of f φ_m(c z).
_Terms = tuple[tuple[float, int, float], ...]


@dataclass(frozen=True)
class ExponentialTableau:
    """An explicit exponential Runge-Kutta method.

    Stage j is e^{c_j z} y + h Σ_k a_jk(z) N_k, and the step ends at e^z y + h Σ_k b_k(z) N_k. The first column is
    not given: a_j1 = c_j φ₁(c_j z) − Σ_{k>1} a_jk and b_1 = φ₁(z) − Σ_{k>1} b_k, so that constant N is exact.

    Attributes:
        nodes: The nodes c, increasing from 0 up to 1.
        stages: The rows of a_jk below the first, k from 2 to j − 1, so that the row of the second stage is empty; each
            coefficient is a sum of terms (f, m, c), which stand for f φ_m(c z).
        weights: The weights b_k from k = 2, in the same form.

    Raises:
        ValueError: Nodes that do not increase from 0, or rows that do not fit them.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[_Terms, ...], ...] = ()
    weights: tuple[_Terms, ...] = ()

    def __post_init__(self) -> None:
        if self.nodes[:1] != (0,) or not all(a < b <= 1 for a, b in pairwise(self.nodes)):
            raise ValueError(f"the nodes are {self.nodes}, expected 0 and then increasing numbers up to 1")
        lengths, wanted = [len(row) for row in (*self.stages, self.weights)], list(range(len(self.nodes)))
        if lengths != wanted:
            raise ValueError(f"rows of {lengths} coefficients for {len(self.nodes)} nodes, expected rows of {wanted}")

    def coefficients(self, z: Tensor) -> Tensor:
        """Return the rows of a(z), the first of zeros, and b(z) last, `(..., s + 1, s)` for z `(...)`."""
        count = len(self.nodes)
        out = torch.zeros(*z.shape, count + 1, count, dtype=torch.float64)
        ends = (*self.nodes, 1.0)
        for j, row in enumerate(((), *self.stages, self.weights)):
            for k, terms in enumerate(row, 1):
                out[..., j, k] = sum((f * phi(order, c * z) for f, order, c in terms), torch.zeros_like(z))
            out[..., j, 0] = ends[j] * phi(1, ends[j] * z) - out[..., j, 1:].sum(-1)
        return out


def _two_stages(c2: float, stiff: bool) -> ExponentialTableau:
    _check_nodes(c2=c2)
    weight = (1 / c2, 2, 1.0) if stiff else (1 / (2 * c2), 1, 1.0)
    return ExponentialTableau((0, c2), ((),), ((weight,),))


def _three_stages(c2: float, c3: float) -> ExponentialTableau:
    """The method of third order with 2 (γ c₂ + c₃) = 3 (γ c₂² + c₃²) (Hochbruck & Ostermann 2005)."""
    _check_nodes(c2=c2, c3=c3)
    if abs(c2 - 2 / 3) < 1e-6:
        raise ValueError(f"c2 is {c2}, for which there is no method of third order; give anything but 2/3")
    gamma = c3 * (3 * c3 - 2) / (c2 * (2 - 3 * c2))
    total = gamma * c2 + c3
    stage: _Terms = ((gamma * c2, 2, c2), (c3**2 / c2, 2, c3))
    return ExponentialTableau((0, c2, c3), ((), (stage,)), (((gamma / total, 2, 1.0),), ((1 / total, 2, 1.0),)))


def _check_nodes(**nodes: float) -> None:
    values = [0.0, *nodes.values()]
    if not all(a < b <= 1 for a, b in pairwise(values)):
        raise ValueError(f"{', '.join(f'{k} is {v}' for k, v in nodes.items())}, expected 0 < {' < '.join(nodes)} <= 1")


@checked
class ExponentialRungeKutta(Value, Solver):
    """The reverse SDE or the probability-flow ODE by an exponential Runge-Kutta method in λ.

    A stage is one evaluation. The noises of the stages are those of one path: they are integrals of the same white
    noise up to each node, drawn with their exact joint law, one draw for each interval between nodes. With τ > 0 the
    weak order is that of the method but at most 2, and the strong order on a Brownian path is 1.

    Args:
        tableau: The method.
        prediction: The prediction that is interpolated, `"data"` or `"noise"`.
        tau: The amount of noise τ; 0 for the ODE, 1 for the reverse SDE of Song et al. 2021.

    Raises:
        ValueError: Another prediction, or a negative amount of noise.

    References:
        Hochbruck & Ostermann 2005, Explicit exponential Runge-Kutta methods for semilinear parabolic problems,
            https://doi.org/10.1137/040611434
    """

    def __init__(self, tableau: ExponentialTableau, prediction: PredictionKind = "data", tau: float = 0.0) -> None:
        one_of("prediction", prediction, ("data", "noise"))
        not_negative("tau", tau)
        self.prediction = prediction
        self.tau = tau
        self.nodes = tableau.nodes
        self._tableau = tableau

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, data, ends = model.sde, self.prediction == "data", (*self.nodes, 1.0)
        count, rate, square = len(self.nodes), 1 + self.tau**2, self.tau**2
        inner = stage_times(LogSNR(), sde, times[:-1], times[1:], self.nodes)
        places = torch.cat((inner, times[1:, None]), dim=1)
        alpha, sigma, log_snr = sde.alpha(places), sde.sigma(places), sde.log_snr(places)
        gone, gaps = log_snr - log_snr[:, :1], log_snr.diff(dim=1)
        h = gone[:, -1:]
        asked = torch.full_like(inner.flatten(), float(data))
        predict = model.prediction(inner.flatten(), asked, 1 - asked)
        if data:
            norm, exponent, linear, factor = alpha, -rate * gone, -rate * h, rate
            # The noise of u is s ξ with ξ stationary: dξ = −τ² ξ dλ + τ √2 dW.
            decay, fresh, reach = (-square * gaps).exp(), (-torch.expm1(-2 * square * gaps)).sqrt(), sigma
        else:
            norm, exponent, linear, factor = sigma, gone, h, -rate
            # The noise of x/α is a martingale, of variance τ² (s₀² − s²).
            level = (-log_snr).exp()
            decay, fresh = torch.ones_like(gaps), self.tau * level[:, :-1] * (-torch.expm1(-2 * gaps)).sqrt()
            reach = alpha
        # One clock for every τ and prediction, so that all follow one path; for τ = 1 and data it is e^{2τ²λ}, the
        # variance of the martingale e^{λ} ξ itself, else the increments differ from it by O(h) of their size.
        clocks = (2 * log_snr).exp().tolist()
        scales = (norm / norm[:, :1] * exponent.exp()).tolist()
        moves = ((factor * norm * h)[:, :, None] * self._tableau.coefficients(linear[:, 0])).tolist()
        decays, freshes, reaches = decay.tolist(), fresh.tolist(), reach.tolist()
        for i in range(len(times) - 1):
            slopes = [predict(x, i * count)]
            path = x
            for j in range(1, count + 1):
                state = advance(scales[i][j], x, moves[i][j], slopes)
                if square:
                    # Two nodes at the end of the step have no interval between them.
                    if ends[j] > ends[j - 1]:
                        draw = noise(clocks[i][j - 1], clocks[i][j]) * freshes[i][j - 1]
                        path = draw if j == 1 else draw.add_(path, alpha=decays[i][j - 1])
                    state = torch.add(state, path, alpha=reaches[i][j])
                if j < count:
                    slopes.append(predict(state, i * count + j))
            x = state
            yield x


@checked
class DPMSolverSinglestep(ExponentialRungeKutta):
    """DPM-Solver-2 and -3 (Lu et al. 2022a), with data prediction DPM-Solver++ 2S and 3S (Lu et al. 2022b).

    The second order has its stage in the middle of the step in λ (algorithm 1, u from the DDIM step to it):

        u = (α_m/α_i) x_i − σ_m (e^{h/2} − 1) ε_i,    x_{i+1} = (α_{i+1}/α_i) x_i − σ_{i+1} (e^h − 1) ε(u, t_m).

    Order 1 is DDIM. The nodes of the third-order method are the published 1/3 and 2/3: with the last node elsewhere,
    the published coefficients are of second order.

    Args:
        order: The order 1, 2 or 3, and as many evaluations a step.
        prediction: `"noise"` for DPM-Solver, `"data"` for DPM-Solver++.
        tau: As for `ExponentialRungeKutta`.

    >>> from scoresde.sampling import UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> sde = VPSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, times = torch.randn(5, 1).double(), UniformLogSNR(6)(sde)
    >>> *_, solved = DPMSolverSinglestep(order=2).solve(model, start, times, lambda *clock: None)
    >>> x, lam = start, sde.log_snr(times)
    >>> for s, t, h in zip(times, times[1:], lam.diff()):
    ...     m = sde.time(sde.log_snr(s) + h / 2)
    ...     u = sde.alpha(m) / sde.alpha(s) * x - sde.sigma(m) * torch.expm1(h / 2) * model.noise(x, s)
    ...     x = sde.alpha(t) / sde.alpha(s) * x - sde.sigma(t) * torch.expm1(h) * model.noise(u, m)
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Lu et al. 2022a, DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in around 10 steps,
            https://arxiv.org/abs/2206.00927
        Lu et al. 2022b, DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models,
            https://arxiv.org/abs/2211.01095
    """

    def __init__(self, order: int = 2, prediction: PredictionKind = "noise", tau: float = 0.0) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"order is {order}, expected 1, 2 or 3")
        tableaus = (ExponentialTableau((0,)), _two_stages(1 / 2, stiff=False), _three_stages(1 / 3, 2 / 3))
        super().__init__(tableaus[order - 1], prediction, tau)
        self.order = order


@checked
class RES(ExponentialRungeKutta):
    """RES 2S and 3S (Zhang et al. 2023): the weights satisfy the stiff order conditions, Σ b_k c_k = φ₂(z).

    Of the conditions for order 3, Σ b_k c_k² = 2 φ₃ holds at z = 0 only, as in Hochbruck & Ostermann 2005. The second
    order, in data prediction with z = −h, u = x/α and the weight b₂ = φ₂(z)/c₂ of the stage, is

        u₂ = e^{c₂ z} u₁ − c₂ z φ₁(c₂ z) D₁,    u ← e^z u₁ − z ((φ₁(z) − b₂) D₁ + b₂ D₂).

    Args:
        order: The order 2 or 3, and as many evaluations a step.
        c2: The node of the second stage.
        c3: The node of the third stage, for order 3.
        prediction: `"data"` as in the paper, or `"noise"`.
        tau: As for `ExponentialRungeKutta`.

    >>> from scoresde.sampling import KarrasGrid
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> sde = EDMSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, times = torch.randn(5, 1).double(), KarrasGrid(6)(sde)
    >>> *_, solved = RES(order=2, c2=0.5).solve(model, start, times, lambda *clock: None)
    >>> x = start
    >>> for s, z in zip(times, times[1:].log() - times[:-1].log()):  # σ = t and α = 1 in this SDE
    ...     data = model.denoise(x, s)
    ...     u = (z / 2).exp() * x - z / 2 * phi(1, z / 2) * data
    ...     b = 2 * phi(2, z)
    ...     x = z.exp() * x - z * ((phi(1, z) - b) * data + b * model.denoise(u, s * (z / 2).exp()))
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Zhang et al. 2023, Improved order analysis and design of exponential integrator for diffusion models sampling,
            https://arxiv.org/abs/2308.02157
    """

    def __init__(
        self,
        order: int = 2,
        c2: float = 0.5,
        c3: float = 1.0,
        prediction: PredictionKind = "data",
        tau: float = 0.0,
    ) -> None:
        if order not in (2, 3):
            raise ValueError(f"order is {order}, expected 2 or 3")
        tableau = _two_stages(c2, stiff=True) if order == 2 else _three_stages(c2, c3)
        super().__init__(tableau, prediction, tau)
        self.order = order


@checked
class SEEDS(DPMSolverSinglestep):
    """SEEDS-1, -2 and -3 (Gonzalez et al. 2023): the reverse SDE by the stages of DPM-Solver-1, -2 and -3.

    The weak orders are 1, 2 and 2, verified on the variance of Gaussian data. SEEDS-3 is of third order only without
    noise: a path known at the nodes of a step does not have the variance of its integral over the step.

    On short grids the noise prediction is useless: with 10 steps from s = 50 to 0.01 the variance of N(0, 0.3) is wrong
    by the factors 1.2, 9 and 1.4 with it, and by 0.5, 0.8 and 1.001 with the data prediction.

    SEEDS-1 with data prediction is `DPMSolverPP(1, sde=True)`; with u = x/α and s = σ/α, a step over h is

        u ← e^{−2h} u + (1 − e^{−2h}) D + s_{i+1} √(1 − e^{−2h}) z.

    Args:
        order: The number of evaluations a step, 1, 2 or 3.
        prediction: The prediction that is interpolated, `"data"` or `"noise"`.
        tau: The amount of noise τ; 1 in the paper.

    >>> from scoresde.sampling import DPMSolverPP, Sampler, UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), VPSDE())
    >>> first, second = (
    ...     Sampler(solver, UniformLogSNR(20))(model, shape=(5, 1), seed=0, dtype=torch.float64).x
    ...     for solver in (SEEDS(order=1), DPMSolverPP(order=1, sde=True))
    ... )
    >>> torch.allclose(first, second, rtol=1e-9, atol=1e-9)
    True

    References:
        Gonzalez et al. 2023, SEEDS: exponential SDE solvers for fast high-quality sampling from diffusion models,
            https://arxiv.org/abs/2305.14267
    """

    def __init__(self, order: int = 3, prediction: PredictionKind = "data", tau: float = 1.0) -> None:
        super().__init__(order, prediction, tau)
