"""Figures of discrete chains: data on their way to noise, and noise on its way to samples."""

import torch

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data
from scoresde.runs.conditions import conditions_of
from scoresde.runs.directory import Run
from scoresde.runs.pictures.drawing import given, plots, save

__all__ = ["chain_picture"]

_SEQUENCES = 16
_LONGEST = 256  # values of a sample that can still be told apart


@torch.no_grad()
def chain_picture(run: Run, model: DiscreteChainModel, data: Data, seed: int) -> None:
    """Draw sequences at t = 0, T/2 and T, forwards and backwards, as figure 1 of Sohl-Dickstein et al. (2015) does."""
    if torch.Size(data.shape).numel() > _LONGEST:
        return
    sampler = run.make("sampler")
    cond = conditions_of(model, data, _SEQUENCES)
    out = sampler(model, (_SEQUENCES, *data.shape), seed=seed, trajectory=True, **cond)
    total = model.chain.steps
    steps = [0, total // 2, total]
    x0 = data.transform.encode(data.test[:_SEQUENCES])
    generator = torch.Generator().manual_seed(seed)
    forward = [x0] + [model.chain.perturb(x0, torch.tensor(t), generator) for t in steps[1:]]
    taken = len(out.trajectory) - 1
    reverse = [out.trajectory[taken - round(t * taken / total)] for t in steps]
    arrays = [[x.double().flatten(1).numpy() for x in states] for states in (forward, reverse)]
    caption = (
        f"Above, {len(x0)} held-out sequences under the forward chain; below, {_SEQUENCES} samples on their way back, "
        f"in {out.nfe} steps{given(model)}. A row of cells is a sequence. After Sohl-Dickstein et al. 2015."
    )
    figure = plots().chain_states(*arrays, [f"t = {t}" for t in steps])
    save(run, figure, "samples/chain.png", "From data to noise and back", caption, "chart", wide=True)
