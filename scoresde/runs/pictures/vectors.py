"""Figures of vectors, series and numbers beside held-out data."""

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.likelihood import LikelihoodError, log_likelihood
from scoresde.numerics.trace import Exact
from scoresde.runs.conditions import conditions_of, other_conditions
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import BESIDE, given, panels, plots, save
from scoresde.score import ScoreModel

__all__ = ["line_picture", "vectors_beside_data"]

_POINTS = 4000  # samples in a histogram
_SEQUENCES = 24  # of bits
_LONGEST = 256  # bits of a sequence that can still be told apart
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def vectors_beside_data(run: Run, data: Data, raw: Tensor, file: str, caption: str) -> None:
    """Draw numbers as histograms, vectors as pairs of their dimensions, and long ones and series as curves, too.

    Bits are rows of cells: as curves and pairs there is nothing to be seen of them.
    """
    test, drawn = (x[:2000].double().flatten(1).numpy() for x in (data.test, raw))
    values = test.shape[1]
    caption += " Beside them, held-out data."
    title = BESIDE
    if data.transform.levels == 2 and 1 < values <= _LONGEST:
        words = f"{caption} A row of cells is a sequence, of {_SEQUENCES} at most."
        figure = plots().sequences(test[:_SEQUENCES], drawn[:_SEQUENCES])
        save(run, figure, file, title, words, "chart", wide=True)
        return
    if values == 1:
        save(run, panels().marginals(test[:, 0], drawn[:, 0]), file, title, caption, "chart", wide=True)
        return
    widest = np.sort(np.argsort(-test.std(0), kind="stable")[:4]) if values > 5 else np.arange(values)
    names = [f"x{str(i + 1).translate(_SUBSCRIPTS)}" for i in widest]
    pairs = panels().pairs(test[:, widest], drawn[:, widest], names)
    if values <= 5:
        save(run, pairs, file, title, caption, "chart", wide=True)
        return
    channels = data.shape[0] if len(data.shape) > 1 else 1
    series = [x.reshape(len(x), channels, -1) for x in (test, drawn)]
    words = f"{caption} Thick: the median; the band holds 80 % of the values; thin: five of them."
    save(run, panels().profiles(*series), file, title, words, "chart", wide=True)
    words = "The four values that vary the most, against each other."
    save(run, pairs, f"{file.removesuffix('.png')}-pairs.png", "Pairs of values", words, "chart", wide=True)


@torch.no_grad()
def line_picture(run: Run, model: ScoreModel, data: Data, seed: int) -> None:
    """Draw histograms of numbers, and the model's density."""
    out = run.make("sampler")(model, (_POINTS, 1), seed=seed, **conditions_of(model, data, _POINTS))
    test, raw = data.test[:_POINTS], data.transform.decode(out.x.cpu())
    conditional = model.classes is not None or other_conditions(model)
    curve = None if conditional else _density(model, data, test)
    figure = panels().marginals(test[:, 0].double().numpy(), raw[:, 0].double().numpy(), curve)
    caption = f"{len(test)} held-out numbers and {len(raw)} samples{given(model)}"
    caption += "." if curve is None else ", and the density that the probability-flow ODE gives."
    save(run, figure, "samples/densities.png", BESIDE, caption, "chart", wide=True)


def _density(model: ScoreModel, data: Data, test: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    """Points in the data's units and the model's density at them; None where it cannot be computed."""
    ends = data.transform.encode(torch.stack((test.min(0).values, test.max(0).values))).float()
    margin = 0.1 * float(ends[1] - ends[0])
    points = torch.linspace(float(ends[0]) - margin, float(ends[1]) + margin, 400)[:, None]
    decoded = data.transform.decode(points)
    inputs = points if model.transform is None else decoded
    try:
        log_prob = log_likelihood(model, inputs.to(model.device), tol=0.01, divergence=Exact()).log_prob.cpu()
    except LikelihoodError:
        return None
    if model.transform is None:
        log_prob = log_prob + data.transform.log_det(data.shape)
    return decoded[:, 0].double().numpy(), log_prob.exp().numpy()
