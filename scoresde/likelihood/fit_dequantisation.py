"""Training of a variational dequantisation: a flow in the cell, for a score model that stays as it is.

The bound E_q[log p(z) − log q(z|k)] on log P(k) (Ho et al. 2019, Flow++, eq. 12) is maximised over draws z of the flow,
with the evidence lower bound of `scoresde.likelihood.bounds` for log p (Song, Durkan, Murray & Ermon 2021, theorem 3):
up to terms that hardly depend on z, in its notation and with c = tanh w,

    log p(z) ≥ −∫ E[c ‖ε̂‖² − 2 ε̂·ε] dw,    σ̃ = σ̃₀ cosh w,    x = α (z/α₀ + σ̃₀ sinh w ε).

Each draw has one w and one ε, and one backward pass through the network. The shape of p in a cell shows at noise of a
fraction of its width, so that is where most of the w are. The score at such a noise, in place of the gradient of this,
needs no backward pass, but improves the bound less: it is the slope of a smoother density.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data import batch_indices
from scoresde.likelihood.cell_flow import CellFlow
from scoresde.likelihood.dequantisation import DiscreteTransform
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.objectives.times import low_discrepancy
from scoresde.progress import Progress
from scoresde.score import ScoreModel
from scoresde.sde import expand_to

__all__ = ["FitOptions", "fit"]

_LARGEST_GRADIENT = 10.0  # norm to which longer gradients are clipped


@checked
@dataclass(frozen=True)
class FitOptions:
    """Options for training a dequantisation.

    Args:
        steps: Number of steps of the optimiser.
        batch_size: Number of samples in a step.
        lr: Peak of the learning rate, which rises over the first twentieth of the steps and falls along a cosine.
        level: Noise level, in widths of a cell, about which the noise levels lie; it affects variance alone.
        seed: Seed of the order of the samples and of the draws.
    """

    steps: int = 400
    batch_size: int = 64
    lr: float = 3e-3
    level: float = 0.3
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0.

        >>> options = FitOptions(steps=40, lr=1.0)
        >>> [round(options.lr_at(step), 3) for step in (0, 1, 20)]
        [0.5, 0.998, 0.5]
        """
        warmup = max(1, self.steps // 20)
        return self.lr * min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def fit(
    flow: CellFlow,
    model: ScoreModel,
    pixels: Tensor,
    transform: DiscreteTransform,
    *,
    labels: Tensor | None = None,
    progress: bool = False,
    **options: Any,
) -> None:
    """Train `flow` to dequantise `pixels` for `model`, by Adam.

    Every random number depends on the seed, the step and the index in the batch.

    Args:
        flow: The flow to train, in its dtype and on the device of the model.
        model: The score model, whose parameters stay as they are.
        pixels: Integers `(N, ...)` to train on.
        transform: The transform of the data.
        labels: Classes `(N,)`, for a model with classes.
        progress: Show a progress bar.
        **options: The values of `FitOptions`.

    Raises:
        ArithmeticError: A gradient that is not finite.
    """
    training = FitOptions(**options)
    gain = _Gain(flow, model, transform, training)
    parameters = list(flow.parameters())
    optimiser = torch.optim.Adam(parameters, training.lr)
    with model.evaluating(), Progress(training.steps, "dequantisation", "step", shown=progress) as bar:
        for step in range(training.steps):
            for group in optimiser.param_groups:
                group["lr"] = training.lr_at(step)
            rows = batch_indices(len(pixels), training.batch_size, step, training.seed)
            gained, entropy = gain(pixels[rows], None if labels is None else labels[rows], step)
            # `backward` would compute gradients for the network's parameters, too.
            gradients = torch.autograd.grad(-gained.mean(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT))
            if not math.isfinite(norm):
                raise ArithmeticError(
                    f"the gradient of the dequantisation is not finite at step {step}: lower lr, or check the model"
                )
            optimiser.step()
            bar.update()
            if step % 20 == 0:
                # 0 for uniform dequantisation.
                bar.note(f"entropy {float(entropy.detach().mean()):.2f} nats")


class _Gain:
    """The part of the bound that depends on the flow, estimated with one noise level for each sample."""

    def __init__(self, flow: CellFlow, model: ScoreModel, transform: DiscreteTransform, training: FitOptions) -> None:
        self.flow, self.model, self.transform, self.training = flow, model, transform, training
        self.dtype = next(flow.parameters()).dtype
        sde = model.sde
        self.t_min, last = torch.tensor([sde.t_min, sde.t_noise()], dtype=torch.float64)
        self.least = sde.noise_level(self.t_min)
        cell = torch.tensor(training.level * math.exp(transform.log_det((1,))))
        self.far, self.middle = (
            float(torch.acosh((level / self.least).clamp(min=1.0))) for level in (sde.noise_level(last), cell)
        )

    def __call__(self, pixels: Tensor, labels: Tensor | None, step: int) -> tuple[Tensor, Tensor]:
        """The gains and the entropies `(B,)` of a batch, in nats.

        Args:
            pixels: Integers `(B, ...)`.
            labels: Classes `(B,)`, if the model takes any.
            step: Number of the step, from which all random numbers follow.
        """
        model, sde, device, count = self.model, self.model.sde, self.model.device, self.training.batch_size
        pixels = pixels.to(device)
        index = step * count + torch.arange(count)
        noise = SampleNoise(self.training.seed, index, self.flow.shape, self.dtype, device, stream=Stream.FIT_NOISE)
        u, log_det = self.flow(pixels, noise.uniform())
        z = self.transform.encode(pixels, u).to(model.dtype)
        w, weight = _spread_out(_evenly(self.training.seed, step, count), self.middle, self.far)
        t = sde.time(-(self.least * w.cosh()).log()).clamp(sde.t_min, sde.t_max)
        eps = noise().to(z)
        moved = z / float(sde.alpha(self.t_min)) + expand_to(self.least * w.sinh(), z) * eps
        cond = {} if labels is None else {"labels": labels.to(device)}
        predicted = model.noise(expand_to(sde.alpha(t), z) * moved, t.to(device), **cond)
        excess = expand_to(w.tanh(), z) * predicted.square() - 2 * predicted * eps
        return log_det - weight.to(device) * excess.flatten(1).sum(1).double(), log_det


def _evenly(seed: int, step: int, count: int) -> Tensor:
    """Uniforms `(count,)` that are spread evenly over a batch (Kingma et al. 2021, appendix I.1)."""
    start = SampleNoise(seed, torch.tensor([step]), (), torch.float64, stream=Stream.FIT_TIMES).uniform()
    return low_discrepancy(start[0], count)


def _spread_out(uniform: Tensor, middle: float, far: float) -> tuple[Tensor, Tensor]:
    """Values w in [0, far] from uniforms in [0, 1), and 1 over their density, a logistic one of scale 1 about `middle`.

    Gradients fall as e^(−w) where the noise is large, and 1 over the density grows no faster than they fall.
    """
    ends = torch.tensor([-middle, far - middle], dtype=torch.float64)
    below, above = ends.sigmoid()
    share = below + uniform * (above - below)
    w = (middle + share.logit()).clamp(0, far)
    return w, (above - below) / (share * (1 - share))
