"""Lines and messages about training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data
from scoresde.score import NetworkScore, NoisyClassifier
from scoresde.training.conditions import taken_conditions
from scoresde.training.options import Training

__all__ = ["failure", "log_line", "opening"]


def opening(
    model: NetworkScore | DiscreteChainModel | NoisyClassifier,
    data: Data,
    options: Training,
    device: torch.device,
    run_dir: Path | None = None,
) -> str:
    """One line on what is to be trained: data, SDE or chain, network and its size, steps, device, seed, directory."""
    network = model.unwrapped
    taken = taken_conditions(model, data)
    unused = " and ".join(name for name in data.train_conditions or () if name not in taken)
    parts = [
        f"training on {data.name} ({len(data.train)} samples of shape {data.shape})",
        *([f"without their {unused}, which the network does not take"] if unused else []),
        type(model.chain if isinstance(model, DiscreteChainModel) else model.sde).__name__,
        f"{type(network).__name__.removeprefix('FSDP')} of {sum(p.numel() for p in network.parameters()):,} parameters",
        f"{options.steps} steps of {options.batch_size} samples",
        str(device),
        f"seed {options.seed}",
        *([] if run_dir is None else [str(run_dir)]),
    ]
    return ", ".join(parts)


def log_line(entry: Mapping[str, Any], skipped: int) -> str:
    """An entry of the log in one line, with the number of steps skipped since the one before."""
    held_out = f", held-out loss {entry['held_out_loss']:.4f}" if "held_out_loss" in entry else ""
    lost = f", {skipped} skipped (NaN or infinite)" if skipped else ""
    return (
        f"loss {entry['loss']:.4f}{held_out}, lr {entry['lr']:.3g}, grad norm {entry['grad_norm']:.3g}{lost}, "
        f"{entry['steps_per_second']:.3g} steps/s"
    )


def failure(
    step: int, options: Training, centres: Sequence[float], curve: Sequence[float], checkpoint: Path | None
) -> str:
    """Message of a training that fails, as too many of its steps were skipped.

    Args:
        step: Number of the last step.
        options: Options of training.
        centres: Centres of bins of λ.
        curve: Mean losses in these bins.
        checkpoint: Newest checkpoint, if there is one.
    """
    worst = ", ".join(f"{c:.1f}: {v:.3g}" for c, v in zip(centres, curve, strict=True))
    return (
        f"the loss was not finite in the {options.max_skipped} steps up to step {step}; loss by "
        f"log-SNR [{worst}]; lower optimizer.lr or training.clip, or turn training.bf16 off; "
        + (f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint had been written yet")
    )
