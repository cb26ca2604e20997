"""Score matching without a target: implicit and sliced.

Integration by parts turns E‖s − ∇ log p_t‖² into E[‖s‖² + 2 ∇·s] and a constant. With s = −ε̂/σ, times σ²,
that is

    E[‖ε̂‖² − 2σ ∇·ε̂],

on the scale of denoising score matching, so that weightings and learning rates carry over. Divided by D it is
lower than denoising score matching's error by exactly 1 in expectation, at every t and for every model, since
E[ε·ε̂(x_t)] = σ E[∇·ε̂(x_t)] by Stein's identity and E‖ε‖² = D.

The derivatives are reverse-mode products with the Jacobian, through which the parameters are differentiated in turn.
The field is evaluated once, so that dropout is the same in the value and in the derivative.

References:
    Estimation of non-normalized statistical models by score matching (Hyvärinen 2005),
    https://jmlr.org/papers/v6/hyvarinen05a.html
    Sliced score matching: a scalable approach to density and score estimation (Song et al. 2019),
    https://arxiv.org/abs/1905.07088
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.arguments import checked
from scoresde.objectives.base import Loss, Objective
from scoresde.objectives.tensors import at_least_float32, dot, normal
from scoresde.objectives.times import Times
from scoresde.objectives.weightings import Weighting
from scoresde.score import Conditions, ScoreModel
from scoresde.sde import expand_to

__all__ = ["ImplicitScoreMatching", "SlicedScoreMatching"]


def _linearise(model: ScoreModel, x: Tensor, t: Tensor, conditions: Conditions) -> tuple[Tensor, Any]:
    """ε̂ at x and the function v ↦ (Jᵀv,) with J its Jacobian."""
    # The fused attention kernels have no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        value, pull, *_ = torch.func.vjp(lambda y: model.noise(y, t, **conditions), x)
    return value, pull


class ImplicitScoreMatching(Objective):
    """E[w(t) (‖ε̂‖² − 2σ ∇·ε̂)/D]: 2σ²/D times E[½‖s‖² + ∇·s] (Hyvärinen 2005, theorem 1), at x_t.

    The trace is exact and costs D backward passes, in one batch: for small D. `per_sample` is the error without w(t), a
    mean over the D elements as in denoising score matching. It is negative where the model is good.

    Args:
        weighting: Weight of an error at each noise level; `SigmaSquared()` if not given.
        times: Distribution of the times; `UniformTime()` if not given.
        stratified: Spread the noise levels of a batch evenly; see `Objective`.
    """

    def __call__(
        self,
        model: ScoreModel,
        x0: Tensor,
        generator: torch.Generator | None = None,
        *,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Loss:
        x0, conditions = at_least_float32(x0), Conditions.of(cond, len(x0), x0.device)
        t, correction, noise = self._draw(model, x0, generator, u, noise)
        x = model.sde.perturb(x0, t, noise)
        value, pull = _linearise(model, x, t, conditions)
        size = x0[0].numel()
        basis = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *x.shape[1:])

        def diagonal(unit: Tensor) -> Tensor:
            return dot(pull(unit.expand_as(x))[0], unit)

        trace = torch.func.vmap(diagonal)(basis).sum(0)
        sigma = expand_to(model.sde.sigma(t), trace)
        return self._loss(model, t, correction, (dot(value, value) - 2 * sigma * trace) / size)


@checked
class SlicedScoreMatching(Objective):
    """Implicit score matching with random projections v, E[v vᵀ] = I, in place of the trace.

    E[w(t) (‖ε̂‖² − 2σ vᵀ(∇ε̂)v)/D], that is 2σ²/D times E[½‖s‖² + vᵀ(∇s)v]: sliced score matching with
    variance reduction. Without it ½‖s‖² is ½(vᵀs)² (Song et al. 2019, arXiv:1905.07088, section 3).
    The value has the expectation of `ImplicitScoreMatching`'s, and so has `per_sample`.

    Args:
        weighting: Weight of an error at each noise level; `SigmaSquared()` if not given.
        times: Distribution of the times; `UniformTime()` if not given.
        stratified: Spread the noise levels of a batch evenly; see `Objective`.
        projections: Number of projections of a sample, for a backward pass each, in one batch.
        kind: Distribution of the projections: `"rademacher"`, each element ±1, or `"gaussian"`.
        variance_reduced: Use ‖s‖² itself, not its projection.

    Raises:
        ValueError: Fewer than 1 projection, or another kind.
    """

    def __init__(
        self,
        weighting: Weighting | None = None,
        times: Times | None = None,
        stratified: bool = False,
        projections: int = 1,
        kind: Literal["rademacher", "gaussian"] = "rademacher",
        variance_reduced: bool = True,
    ) -> None:
        super().__init__(weighting, times, stratified)
        if projections < 1:
            raise ValueError(f"projections is {projections}, expected at least 1")
        if kind not in ("rademacher", "gaussian"):
            raise ValueError(f"kind is {kind!r}, expected 'rademacher' or 'gaussian'")
        self.projections = projections
        self.kind = kind
        self.variance_reduced = variance_reduced

    def __call__(
        self,
        model: ScoreModel,
        x0: Tensor,
        generator: torch.Generator | None = None,
        *,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        probes: Tensor | None = None,
        **cond: Any,
    ) -> Loss:
        """The loss on a batch, as for `Objective`.

        Args:
            model: The model to train.
            x0: Data `(B, ...)` in model space.
            generator: Generator of all that is not given.
            u: Uniforms `(B,)` that choose the times.
            noise: Standard normal noise `(B, ...)`.
            probes: Projections `(M, B, ...)`, used whatever their number and kind.
            **cond: Conditions for the model.

        Raises:
            ValueError: Shapes that do not fit.
        """
        x0, conditions = at_least_float32(x0), Conditions.of(cond, len(x0), x0.device)
        t, correction, noise = self._draw(model, x0, generator, u, noise)
        if probes is None:
            probes = normal((self.projections, *x0.shape), x0, generator)
            if self.kind == "rademacher":
                probes = torch.where(probes < 0, -torch.ones_like(probes), torch.ones_like(probes))
        elif probes.shape[1:] != x0.shape or len(probes) == 0:
            raise ValueError(f"probes have shape {tuple(probes.shape)}, expected (M, {', '.join(map(str, x0.shape))})")
        x = model.sde.perturb(x0, t, noise)
        value, pull = _linearise(model, x, t, conditions)
        curvature = torch.func.vmap(lambda v: dot(pull(v)[0], v))(probes).mean(0)
        square = dot(value, value) if self.variance_reduced else _projected_square(value, probes)
        sigma = expand_to(model.sde.sigma(t), curvature)
        return self._loss(model, t, correction, (square - 2 * sigma * curvature) / x0[0].numel())


def _projected_square(value: Tensor, probes: Tensor) -> Tensor:
    """(vᵀ value)² averaged over the probes, `(B,)`."""
    return at_least_float32(value * probes).flatten(2).sum(2).square().mean(0)
