"""Train the variational dequantisation of a run: a flow in the cell, to a score model that stays as it is.

The bound E_q[log p(z) − log q(z|k)] on log P(k) (Ho et al. 2019, Flow++, eq. 12) is maximised over draws z of the flow,
with the evidence lower bound of `scoresde.likelihood.bounds` for log p (Song, Durkan, Murray & Ermon 2021, theorem 3):
up to a part that hardly depends on z, in its notation and with c = tanh w,

    log p(z) ≥ −∫ E[c ‖ε̂‖² − 2 ε̂·ε] dw,    σ̃ = σ̃₀ cosh w,    x = α (z/α₀ + σ̃₀ sinh w ε).

One w and one ε for each draw, and one backward pass through the network. What p is like in a cell shows at noise of a
part of its width, so that is where most of the w are. The score at such a noise, in place of the gradient of this,
needs no backward pass, but has the bound gain less: it is the slope of a smoother density.
"""

import math
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde.data import Data, batch_indices
from scoresde.likelihood import CellFlow, Variational, bits_per_dim
from scoresde.likelihood.density import mean_and_error, tolerance_of
from scoresde.likelihood.dequantisation import DiscreteTransform
from scoresde.objectives.times import low_discrepancy
from scoresde.progress import Progress
from scoresde.sampling.noise import SampleNoise
from scoresde.score import NetworkScore, ScoreModel
from scoresde.sde import expand_to
from scoresde.training.checkpoint import save_tensors
from scoresde.training.config import ConfigError
from scoresde.training.options import option_problems
from scoresde.training.pictures import has_classes
from scoresde.training.run import Run

__all__ = ["FILE", "dequantise", "fit"]

FILE = "dequantisation.safetensors"
# Of SampleNoise.
_STREAM = 8
_CLIP = 10.0  # largest norm of the gradient
_LEAST = 8  # samples to judge by


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
    least = (-sde.log_snr(first)).exp()
    far, middle = (
        float(torch.acosh((noise / least).clamp(min=1.0)))
        for noise in ((-sde.log_snr(last)).exp(), torch.tensor(level * math.exp(transform.log_det((1,)))))
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
            draws = SampleNoise(seed, step * batch_size + place, flow.shape, dtype, device, stream=_STREAM)
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
    start = SampleNoise(seed, torch.tensor([step]), (), torch.float64, stream=_STREAM + 1).uniform()
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


def dequantise(run: Run, model: NetworkScore, data: Data, options: DictConfig) -> tuple[dict[str, Any], Path | None]:
    """Train a dequantisation for the run's model, and write it into the run directory if it is better than uniform.

    Some of the training data are kept to judge by: by their bits per dimension with either, at the same seeds.

    Returns bits per dimension with both, their difference and its standard error, and the file, or None if the
    difference is not above its standard error and what the solver may err by; a file that is there then stays.

    Raises:
        ConfigError: continuous data, too few of them, or an option out of its range.
    """
    if data.transform.levels is None:
        raise ConfigError(f"{data.name} is continuous: only discrete data are dequantised")
    plain: Any = OmegaConf.to_container(options, resolve=True)
    for problem in option_problems("dequantise", plain):
        raise ConfigError(problem)
    tol = options.tol
    count = min(options.judge, len(data.train) // 5)
    if count < _LEAST:
        raise ConfigError(f"{data.name} has {len(data.train)} training samples, expected at least {5 * _LEAST}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        flow = CellFlow(
            data.shape,
            data.transform.levels,
            couplings=options.couplings,
            width=options.width,
            blocks=options.blocks,
            bins=options.bins,
        ).to(model.device)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(options.seed))
    kept, rest = order[:count], order[count:]
    labels = data.train_labels if has_classes(model) else None
    fit(
        flow,
        model,
        data.train[rest],
        data.transform,
        labels=None if labels is None else labels[rest],
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        level=options.level,
        seed=options.seed,
        progress=options.progress,
    )
    entry = _judge(flow, model, data, kept, labels, options)
    size = math.prod(data.shape)
    nats = tolerance_of(tol, None, None, size).nats
    assert nats is not None
    if not entry["gain"] > entry["stderr"] + nats / (size * math.log(2)):
        return entry, None
    path = run.directory / FILE
    save_tensors(path, flow.state_dict(), flow.metadata())
    return entry, path


def _judge(
    flow: CellFlow, model: ScoreModel, data: Data, kept: Tensor, labels: Tensor | None, options: DictConfig
) -> dict[str, Any]:
    """Bits per dimension of the training samples `kept`, uniformly dequantised and by the flow."""
    cond = {} if labels is None else {"labels": labels[kept].to(model.device)}
    pixels = data.train[kept].to(model.device)
    common: dict[str, Any] = {"seed": options.seed, "tol": options.tol, **cond}
    with Progress(2, "judging", "likelihood", shown=options.progress) as bar:
        uniform = bits_per_dim(model, pixels, data.transform, dequantisation="uniform", **common)
        bar.update()
        learned = bits_per_dim(model, pixels, data.transform, dequantisation=Variational(flow), **common)
        bar.update()
    gain, error = mean_and_error(uniform.bits - learned.bits)
    return {"uniform": uniform.mean, "variational": learned.mean, "gain": gain, "stderr": error, "n": len(kept)}
