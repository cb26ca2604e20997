"""Fits variational dequantisation to a model."""

import math

import torch
from torch import Tensor

from scoresde.data import batch_indices
from scoresde.likelihood import CellFlow
from scoresde.likelihood.dequantisation import DiscreteTransform
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.objectives.times import low_discrepancy
from scoresde.progress import Progress
from scoresde.score import ScoreModel
from scoresde.sde import expand_to

__all__ = ["fit"]

_CLIP = 10.0  # largest norm of the gradient


def fit(
    flow: CellFlow,
    model: ScoreModel,
    pixels: Tensor,
    transform: DiscreteTransform,
    *,
    labels: Tensor | None = None,
    steps: int = 400,
    batch_size: int = 64,
    lr: float = 3e-3,
    level: float = 0.3,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Train `flow` to dequantise `pixels` for `model`, by Adam.

    Every number drawn depends on the seed, the step and the place in the batch.

    Args:
        flow: what is trained, in its dtype; on the device of the model.
        model: the score model; its parameters stay.
        pixels: `(N, ...)`, integers to train on.
        transform: the data's.
        labels: `(N,)`, for a model with classes.
        steps: of the optimiser.
        batch_size: samples in a step.
        lr: peak of the learning rate, which rises over the first twentieth of the steps and falls along a cosine.
        level: noise, in widths of a cell, about which the noise levels are; a matter of variance alone.
        seed: of the order and the draws.
        progress: show a progress bar.

    Raises:
        ArithmeticError: a gradient that is not finite.
    """
    sde, device = model.sde, model.device
    first, last = torch.tensor([sde.t_min, sde.t_noise()], dtype=torch.float64)
    least = sde.noise_level(first)
    far, middle = (
        float(torch.acosh((noise / least).clamp(min=1.0)))
        for noise in (sde.noise_level(last), torch.tensor(level * math.exp(transform.log_det((1,)))))
    )
    parameters = list(flow.parameters())
    dtype = parameters[0].dtype
    optimiser = torch.optim.Adam(parameters, lr)
    warmup = max(1, steps // 20)
    place = torch.arange(batch_size)
    with model.evaluating(), Progress(steps, "dequantisation", "step", shown=progress) as bar:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
            rows = batch_indices(len(pixels), batch_size, step, seed)
            some = pixels[rows].to(device)
            draws = SampleNoise(seed, step * batch_size + place, flow.shape, dtype, device, stream=Stream.FIT_NOISE)
            u, log_det = flow(some, draws.uniform())
            z = transform.encode(some, u).to(model.dtype)
            w, weight = _placed(_evenly(seed, step, batch_size), middle, far)
            t = sde.time(-(least * w.cosh()).log()).clamp(sde.t_min, sde.t_max)
            eps = draws().to(z)
            moved = z / float(sde.alpha(first)) + expand_to(least * w.sinh(), z) * eps
            cond = {} if labels is None else {"labels": labels[rows].to(device)}
            predicted = model.noise(expand_to(sde.alpha(t), z) * moved, t.to(device), **cond)
            excess = expand_to(w.tanh(), z) * predicted.square() - 2 * predicted * eps
            gained = log_det - weight.to(device) * excess.flatten(1).sum(1).double()
            # Not `backward`, which would be for the network's parameters, too.
            gradients = torch.autograd.grad(-gained.mean(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, _CLIP))
            if not math.isfinite(norm):
                raise ArithmeticError(
                    f"the gradient of the dequantisation is not finite at step {step}: lower lr, or check the model"
                )
            optimiser.step()
            bar.update()
            if step % 20 == 0:
                # 0 for uniform dequantisation.
                bar.note(f"entropy {float(log_det.detach().mean()):.2f} nats")


def _evenly(seed: int, step: int, count: int) -> Tensor:
    """`(count,)` uniforms, spread evenly over a batch (Kingma et al. 2021, appendix I.1)."""
    start = SampleNoise(seed, torch.tensor([step]), (), torch.float64, stream=Stream.FIT_TIMES).uniform()
    return low_discrepancy(start[0], count)


def _placed(uniform: Tensor, middle: float, far: float) -> tuple[Tensor, Tensor]:
    """Places w in [0, far] of uniforms in [0, 1), and 1 over their density: a logistic one of scale 1 about `middle`.

    Gradients fall as e^(−w) where the noise is large, and 1 over the density grows no faster than they fall.
    """
    ends = torch.tensor([-middle, far - middle], dtype=torch.float64)
    below, above = ends.sigmoid()
    share = below + uniform * (above - below)
    w = (middle + share.logit()).clamp(0, far)
    return w, (above - below) / (share * (1 - share))
