"""Figures of data in the plane: densities of data, samples and the model, and how one becomes the other."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.likelihood import LikelihoodError, log_likelihood
from scoresde.numerics.trace import Exact
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import BESIDE, classes_in_turn, panels, save
from scoresde.score import ScoreModel

__all__ = ["plane_pictures"]

_POINTS = 4000  # samples whose density is drawn
_COLUMNS = 6  # times of a filmstrip


@torch.no_grad()
def plane_pictures(run: Run, model: ScoreModel, data: Data, seed: int) -> None:
    """Draw densities of data, samples and the model in the plane, and how one becomes the other."""
    cond = classes_in_turn(model, _POINTS)
    out = run.make("sampler")(model, (_POINTS, 2), seed=seed, trajectory=True, **cond)
    assert out.trajectory is not None
    x0 = data.transform.encode(data.test[:_POINTS]).double()
    every = data.transform.encode(torch.cat((data.test, data.train))[:_POINTS]).double()
    samples = out.x.cpu().double()
    plane = panels().Plane.around(x0.numpy())
    corners = _corners(data, plane)
    shown = [(name, plane.smooth(plane.count(x.numpy()))) for name, x in (("held-out data", x0), ("samples", samples))]
    exact = _model_density(model, data, plane, x0, samples, cond.get("labels"))
    words = f"From left to right {len(x0)} held-out points, {len(samples)} samples"
    if exact is not None:
        shown.append(("model density p(x)", exact))
        words += ", and the density that the probability-flow ODE gives"
    caption = f"{words}. All smoothed alike; brightness grows with the square root of the density."
    save(run, panels().densities(shown, corners), "samples/densities.png", BESIDE, caption, "dark")
    _filmstrip(run, model, data, every, out.times, out.trajectory.cpu().double(), seed)


def _corners(data: Data, plane: Any) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a window of model space, in the data's units."""
    ends = torch.tensor(np.stack((plane.low, plane.low + plane.side)), dtype=torch.float32)
    low, high = data.transform.decode(ends).double().numpy()
    return low, high


def _model_density(
    model: ScoreModel, data: Data, plane: Any, x0: Tensor, samples: Tensor, labels: Tensor | None
) -> np.ndarray | None:
    """The model's density on the plane, where data or samples lie nearby; None where it cannot be computed.

    Of a model with classes it is the mixture, in the proportions of the held-out data.
    """
    density = np.zeros((plane.cells, plane.cells))
    classes = [None] if labels is None else list(range(int(labels.max()) + 1))
    held_out = data.test_labels
    for k in classes:
        nearby, drawn, weight = x0, samples, 1.0
        if k is not None and held_out is not None and labels is not None:
            nearby, drawn = x0[held_out[: len(x0)] == k], samples[labels.cpu() == k]
            weight = len(nearby) / len(x0)
        if not len(nearby):
            continue
        density_nearby = plane.smooth(plane.count(torch.cat((nearby, drawn)).numpy()), 1.5 * plane.side / plane.cells)
        mask = density_nearby > 1e-3 * density_nearby.max()
        points = torch.from_numpy(plane.centres()[mask]).float()
        cond: dict[str, Any] = {} if k is None else {"labels": torch.full((len(points),), k, device=model.device)}
        inputs = points if model.transform is None else data.transform.decode(points)
        try:
            out = log_likelihood(model, inputs.to(model.device), tol=0.05, divergence=Exact(), batch_size=16384, **cond)
        except LikelihoodError:
            return None
        # In model space, where the window is.
        inner = out.log_prob.cpu() - (0.0 if model.transform is None else data.transform.log_det(data.shape))
        density[mask] += weight * inner.exp().numpy()
    smooth: np.ndarray = plane.smooth(density)
    return smooth


def _filmstrip(run: Run, model: ScoreModel, data: Data, x0: Tensor, times: Tensor, states: Tensor, seed: int) -> None:
    """Draw data to noise, noise to samples, and the field, at times with equal steps of the angle of noise to signal.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        x0: `(N, 2)` samples of the data in model space.
        times: `(T,)` times of the states.
        states: `(T, M, 2)` states of a solver from noise to samples.
        seed: Seed of the forward process.
    """
    sde, plane = model.sde, panels().Plane
    mean, std = x0.mean(0), float(x0.std(0).square().mean().sqrt())
    known = times.double().cpu()
    angles = torch.linspace(0, torch.pi / 2, _COLUMNS, dtype=torch.float64)
    noise_to_signal = torch.atan2(sde.sigma(known), sde.alpha(known) * std)
    picked = [int((noise_to_signal - angle).abs().argmin()) for angle in angles]
    picked = list(dict.fromkeys((len(known) - 1, *picked[1:-1], 0)))
    generator = torch.Generator().manual_seed(seed)
    scale = [float(torch.hypot(sde.alpha(t) * std, sde.sigma(t))) for t in known[picked]]
    reach = min(max(2.6, 1.1 * float(((x0 - mean) / std).abs().max())), 4.0)
    axis = torch.linspace(-0.93 * reach, 0.93 * reach, 15, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cond = {} if model.classes is None else {"labels": torch.zeros(len(grid), dtype=torch.int64, device=model.device)}
    forward, reverse, fields = [], [], []
    for index, width in zip(picked, scale, strict=True):
        t = known[index]
        centre = float(sde.alpha(t)) * mean
        there, back = (
            ((x - centre) / width).numpy() for x in (sde.perturb(x0.float(), t, generator).double(), states[index])
        )
        around = plane.around(there, smoothing=2.0)
        window = plane(np.full(2, -reach), 2 * reach, 96, around.bandwidth)
        forward.append(window.smooth(window.count(there)))
        reverse.append(window.smooth(window.count(back)))
        points = (grid * width + centre).float().to(model.device)
        fields.append((grid.numpy(), model.score(points, t, **cond).cpu().double().numpy()))
    titles = [f"t = {float(t):.3g}" for t in known[picked]]
    caption = (
        "Above, data dissolve into noise; in the middle, the sampler turns noise into samples; below, the learned "
        "score ∇ log pₜ(x), with arrows that grow with its square root. Each column is one time, at unit variance, "
        "with a brightness of its own. After Sohl-Dickstein et al. 2015."
    )
    if cond:
        caption += f" The score is of class {data.class_names[0] if data.class_names else 0}."
    corners = (np.full(2, -reach), np.full(2, reach))
    figure = panels().filmstrip(forward, reverse, fields, titles, corners)
    save(run, figure, "samples/filmstrip.png", "From data to noise and back", caption, "dark")
