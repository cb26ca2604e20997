"""Figures of data in the plane: densities of data, samples and the model, and how one becomes the other."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.chains import GaussianChainModel
from scoresde.data import Data
from scoresde.likelihood import LikelihoodError, log_likelihood
from scoresde.numerics.trace import Exact
from scoresde.runs.conditions import conditions_of, given_names, other_conditions
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import BESIDE, given, panels, save
from scoresde.score import ScoreModel
from scoresde.sde import DiscreteVPSDE

__all__ = ["plane_pictures"]

_POINTS = 4000  # samples whose density is drawn
_COLUMNS = 6  # times of a filmstrip


@torch.no_grad()
def plane_pictures(run: Run, model: ScoreModel, data: Data, seed: int) -> None:
    """Draw densities of data, samples and the model in the plane, and how one becomes the other."""
    cond = conditions_of(model, data, _POINTS)
    out = run.make("sampler")(model, (_POINTS, 2), seed=seed, trajectory=True, **cond)
    assert out.trajectory is not None
    x0 = data.transform.encode(data.test[:_POINTS]).double()
    every = data.transform.encode(torch.cat((data.test[:_POINTS], data.train[:_POINTS]))[:_POINTS]).double()
    samples = out.x.cpu().double()
    plane = panels().Plane.around(x0.numpy())
    corners = _corners(data, plane)
    shown = [(name, plane.smooth(plane.count(x.numpy()))) for name, x in (("held-out data", x0), ("samples", samples))]
    exact = None  # the mixture over conditions of many values would take a likelihood for each of them
    if not other_conditions(model):
        exact = _model_density(model, data, plane, x0, samples, cond.get("labels"))
    words = f"From left to right {len(x0)} held-out points, {len(samples)} samples{given(model)}"
    if exact is not None:
        shown.append(("model density p(x)", exact))
        words += ", and the density that the probability-flow ODE gives"
    caption = f"{words}. All smoothed alike; brightness grows with the square root of the density."
    save(run, panels().densities(shown, corners), "samples/densities.png", BESIDE, caption, "dark")
    states = out.trajectory.cpu().double()
    _filmstrip(run, model, data, every, out.times, states, seed)
    # With a later t_min the model does not know the first steps of the chain.
    if isinstance(model.sde, DiscreteVPSDE) and model.sde.t_min * len(model.sde.betas) <= 1 + 1e-9:
        _chain(run, model, data, every, out.times, states, seed)


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
            with warnings.catch_warnings():
                # Of a coarse tolerance, which does for a picture and is none of the user's options.
                warnings.simplefilter("ignore", UserWarning)
                out = log_likelihood(
                    model, inputs.to(model.device), tol=0.05, divergence=Exact(), batch_size=16384, **cond
                )
        except LikelihoodError:
            return None
        # In model space, where the window is.
        inner = out.log_prob.cpu() - (0.0 if model.transform is None else data.transform.log_det(data.shape))
        density[mask] += weight * inner.exp().numpy()
    smooth: np.ndarray = plane.smooth(density)
    return smooth


def _filmstrip(run: Run, model: ScoreModel, data: Data, x0: Tensor, times: Tensor, states: Tensor, seed: int) -> None:
    """Draw data to noise, noise to samples, and the score, at times with equal steps of the angle of noise to signal.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        x0: `(N, 2)` samples of the data in model space.
        times: `(T,)` times of the states.
        states: `(T, M, 2)` states of a solver from noise to samples.
        seed: Seed of the forward process.
    """
    sde, known = model.sde, times.double().cpu()
    angles = torch.linspace(0, torch.pi / 2, _COLUMNS, dtype=torch.float64)
    noise_to_signal = torch.atan2(sde.sigma(known), sde.alpha(known) * _spread(x0))
    picked = [int((noise_to_signal - angle).abs().argmin()) for angle in angles]
    picked = list(dict.fromkeys((len(known) - 1, *picked[1:-1], 0)))
    generator = torch.Generator().manual_seed(seed)
    frames = [
        (known[index], sde.perturb(x0.float(), known[index], generator).double(), states[index]) for index in picked
    ]

    def score(x: Tensor, column: int) -> Tensor:
        return model.score(x, known[picked[column]], **_first(model, data, len(x)))

    titles = [f"t = {float(t):.3g}" for t in known[picked]]
    caption = (
        "Above, data dissolve into noise; in the middle, the sampler turns noise into samples; below, the learned "
        "score ∇ log pₜ(x), with arrows that grow with its square root. Each column is one time, at unit variance, "
        "with a brightness of its own. After Sohl-Dickstein et al. 2015." + _whose(model, data, "score")
    )
    figure = panels().filmstrip(*_columns(model, x0, frames, score, titles))
    save(run, figure, "samples/filmstrip.png", "From data to noise and back", caption, "dark")


def _chain(run: Run, model: ScoreModel, data: Data, x0: Tensor, times: Tensor, states: Tensor, seed: int) -> None:
    """Draw the chain at t = 0, T/2 and T: data to noise, noise to samples, and the drift of the reverse steps.

    Arguments are those of `_filmstrip`, of a model whose SDE has a chain of its own.
    """
    assert isinstance(model.sde, DiscreteVPSDE)
    chain, known = model.sde.chain(), times.double().cpu()
    reverse_steps = GaussianChainModel(model, chain)
    steps = [0, chain.steps // 2, chain.steps]
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for step in steps:
        t = torch.tensor(step / chain.steps, dtype=torch.float64)
        there = x0 if step == 0 else chain.perturb(x0, torch.tensor(step), generator)
        frames.append((t, there, states[int((known - t).abs().argmin())]))

    def drift(x: Tensor, column: int) -> Tensor:
        # No step leads back from t = 0: its column has that which leads there, from t = 1.
        undone = torch.full((len(x),), max(steps[column], 1), device=x.device)
        return reverse_steps.reverse(x, undone, **_first(model, data, len(x))).mean - x

    caption = (
        f"Above, data at t = 0, T/2 and T of the chain of T = {chain.steps} steps; in the middle, samples on their way "
        "back at the same times; below, the learned drift f_μ(x, t) − x, by which the mean of a reverse step moves x, "
        "and at t = 0 that of the last step, from t = 1. Arrows grow with the square root of the drift in model space, "
        "on a scale of their own in each column; each column is at unit variance, with a brightness of its own. After "
        "figure 1 of Sohl-Dickstein et al. 2015." + _whose(model, data, "drift")
    )
    strip = _columns(model, x0, frames, drift, [f"t = {step}" for step in steps])
    figure = panels().filmstrip(*strip, "learned drift\nf_μ(x, t) − x")
    save(run, figure, "samples/chain.png", "The chain and its learned drift", caption, "dark")


def _columns(
    model: ScoreModel,
    x0: Tensor,
    frames: Sequence[tuple[Tensor, Tensor, Tensor]],
    field: Callable[[Tensor, int], Tensor],
    titles: Sequence[str],
) -> tuple[Any, ...]:
    """The arguments of `panels.filmstrip`, of states at unit variance.

    Args:
        model: The model.
        x0: `(N, 2)` samples of the data in model space.
        frames: Time, noised data and samples on their way of each column.
        field: The vectors at points of model space `(M, 2)`, of a column.
        titles: Titles of the columns.
    """
    sde, plane, mean, std = model.sde, panels().Plane, x0.mean(0), _spread(x0)
    reach = min(max(2.6, 1.1 * float(((x0 - mean) / std).abs().max())), 4.0)
    axis = torch.linspace(-0.93 * reach, 0.93 * reach, 15, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    forward, reverse, fields = [], [], []
    for column, (t, *both) in enumerate(frames):
        width, centre = float(torch.hypot(sde.alpha(t) * std, sde.sigma(t))), float(sde.alpha(t)) * mean
        there, back = (((x - centre) / width).numpy() for x in both)
        around = plane.around(there, smoothing=2.0)
        window = plane(np.full(2, -reach), 2 * reach, 96, around.bandwidth)
        forward.append(window.smooth(window.count(there)))
        reverse.append(window.smooth(window.count(back)))
        points = (grid * width + centre).float().to(model.device)
        fields.append((grid.numpy(), field(points, column).cpu().double().numpy()))
    return forward, reverse, fields, titles, (np.full(2, -reach), np.full(2, reach))


def _spread(x0: Tensor) -> float:
    """The root of the mean variance of a dimension."""
    return float(x0.std(0).square().mean().sqrt())


def _first(model: ScoreModel, data: Data, count: int) -> dict[str, Tensor]:
    """The conditions `(count, ...)` of figures of one field: the first class, or those of the first held-out sample."""
    return {name: v.expand(count, *v.shape[1:]) for name, v in conditions_of(model, data, 1).items()}


def _whose(model: ScoreModel, data: Data, field: str) -> str:
    """A sentence that says what a field is given, if there are conditions."""
    if other_conditions(model):
        return f" The {field} is that given the {given_names(model)} of the first held-out sample."
    if model.classes is None:
        return ""
    return f" The {field} is of class {data.class_names[0] if data.class_names else 0}."
