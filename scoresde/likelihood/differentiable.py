"""The log-density as a differentiable function of the data and of the model's parameters.

Discretise, then optimise: the gradients are exactly those of the steps taken, not of the equation that the steps
approximate. The steps are fixed, since a step size that follows the data has no derivative.

References:
    Discretize-Optimize vs. Optimize-Discretize for Time-Series Regression and Continuous Normalizing Flows (Onken &
    Ruthotto 2020), https://arxiv.org/abs/2005.13420
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.inputs import check_batch
from scoresde.likelihood.numbering import evaluation_number
from scoresde.likelihood.options import FIXED_STEP_OPTIONS, FlowOptions
from scoresde.likelihood.prior import prior_log_prob
from scoresde.numerics.trace import Divergence, Exact, Hutchinson
from scoresde.score import ScoreModel

__all__ = ["differentiable_log_prob"]


class _Again(torch.autograd.Function):
    """A step whose graph is built when its gradient is asked for.

    torch.utils.checkpoint cannot do this: its hooks on saved tensors do not work around the derivatives of
    `torch.func`.
    """

    @staticmethod
    def forward(ctx: Any, step: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor, *parameters: Tensor) -> Any:
        ctx.step = step
        ctx.save_for_backward(y, *parameters)
        with torch.no_grad():
            return step(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        y, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            inputs = [y, *(p for p in parameters if p.requires_grad)]
            found = iter(torch.autograd.grad(ctx.step(y), inputs, gradients, allow_unused=True))
        return None, next(found), *(next(found) if p.requires_grad else None for p in parameters)


@checked
def differentiable_log_prob(
    model: ScoreModel,
    x: Tensor,
    *,
    steps: int = 32,
    divergence: Divergence | None = None,
    seed: int = 0,
    first: int = 0,
    prior: Literal["matched", "plain"] = "matched",
    checkpointing: bool = True,
    options: FlowOptions | None = None,
    **keywords: Any,
) -> Tensor:
    """The log-densities `(B,)` of x at t_min in nats, float64, with a graph.

    The classical Runge-Kutta method is applied to state and log-determinant together, in equal steps of the time
    variable, and under an exact score of narrow data in further ones of small noise. The model is called in the mode
    that it is in. The error falls as the fourth power of the number of steps: compare with `log_likelihood`.

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units, as for `log_likelihood`.
        steps: Number of steps, of 4 evaluations and 4 traces each.
        divergence: `Exact()`, `Hutchinson(probes)` or `Probing(colours)`; `Hutchinson(1)` if not given.
        seed: Seed of the probes, which are fresh at every evaluation.
        first: Index of the first sample.
        prior: Density of the latent, as for `log_likelihood`.
        checkpointing: Keep only the states at the steps, and compute a step again when its gradient is asked for. This
            takes the memory of one step instead of all, and one more forward pass.
        options: The options `t_min`, `t_max`, `variable` and `scaling` of a solve; keywords replace its values.
        **keywords: These options by name. All others are conditions for the model.

    Raises:
        ValueError: As `log_likelihood`, fewer than 1 step, or a forward-mode divergence.
    """
    options, cond = FlowOptions.split(differentiable_log_prob, model, options, keywords, FIXED_STEP_OPTIONS)
    x = model.on_device(x)
    _, conditions = check_batch(model, x.detach(), cond, prior)
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    if isinstance(divergence, Exact) and divergence.mode == "forward":
        # torch 2.13 leaves a part of the gradient out where it goes through a layer norm's forward derivative.
        raise ValueError("Exact(mode='forward') gives no gradients that can be relied on: take mode='reverse'")
    chosen = (Hutchinson() if divergence is None else divergence).for_shape(tuple(x.shape[1:]))
    flow = Flow(model, x.shape, conditions, options, x.device)
    rows = torch.arange(len(x), device=x.device)
    w = flow.steps(steps)

    def slopes(at: Tensor, y: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The slopes of the state and of the part of the log-density that is not in closed form."""
        place = flow.place(at.expand(len(y)))
        index = evaluation_number(first + rows, number).cpu()
        points = flow.to_x(place, y).to(flow.dtype).reshape(x.shape)
        noise = flow.noise(place, rows)
        trace = chosen.traces(noise, points, seed, index, flow.known(place)).value
        shrink = flow.spread.trace((place.level[:, None] / place.norm) ** 2)
        return flow.field(place, y, rows), place.rate * (place.alpha * place.level * trace - shrink)

    def step(y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        h = w[i + 1] - w[i]
        k1, l1 = slopes(w[i], y, 4 * i)
        k2, l2 = slopes(w[i] + h / 2, y + h / 2 * k1, 4 * i + 1)
        k3, l3 = slopes(w[i] + h / 2, y + h / 2 * k2, 4 * i + 2)
        k4, l4 = slopes(w[i + 1], y + h * k3, 4 * i + 3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)

    parameters = tuple(model.parameters())
    y = flow.to_y(flow.at_ends[:1], model.to_model_space(x).flatten(1))
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    again: Any = _Again.apply
    for i in range(steps):
        if checkpointing and torch.is_grad_enabled():
            y, gained = again(partial(step, i=i), y, *parameters)
        else:
            y, gained = step(y, i)
        total = total + gained
    return total + prior_log_prob(flow, flow.to_x(flow.at_ends[1:], y), prior) + flow.log_scale()
