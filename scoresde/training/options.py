"""Options of training, as `conf/training` has them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from scoresde.options.settings import option_problems
from scoresde.training.ema import PowerFunction, Profile

__all__ = ["Training"]


@dataclass(frozen=True)
class Training:
    """Options of training.

    Args:
        steps: Optimiser steps in all.
        batch_size: Samples per step, over all processes.
        accumulate: Number of parts in which a process computes its samples of a batch, one after the other; the memory
            of activations is that of a part, and the gradient that of the batch. So are draws, but for dropout and
            dropped labels of a compiled network.
        warmup: Steps over which the learning rate rises to its peak.
        final_lr: Learning rate at the end, as a fraction of its peak; it falls along a cosine. 1 keeps it at its peak.
        decay_after: Steps after which the learning rate falls as 1/√step, beside the cosine; null for never
            (Karras et al. 2024, eq. 67).
        clip: Largest norm of the gradient; null for no clipping.
        ema: Profile of the moving average of the weights.
        snapshots: Steps between snapshots of averages of the weights, of which `scoresde ema` makes any other average
            afterwards; null for none.
        snapshot_stds: Relative standard deviations of the averages in each snapshot.
        stratified: Spread the noise levels of a batch evenly (Kingma et al. 2021, appendix I.1).
        flip: Mirror each image of a batch left to right with probability ½.
        augment: Probability of each transformation of images of which the network is told, by `augmentations` of 9 (see
            `scoresde.data.augmentation`); null for none. Mirroring left to right, with probability ½, is among them.
        dequantise: Add uniform noise to discrete data; else the cells' centres are the data.
        bf16: Run the network in bfloat16 by autocast.
        compile: `torch.compile` the network.
        channels_last: Keep images in the channels-last layout.
        workers: Threads that read samples which are not in memory, each the batch of one of the next steps; 0 reads a
            batch when its step begins. Numbers do not depend on it.
        seed: Seed of everything random.
        log_every: Steps between entries of the log.
        checkpoint_every: Steps between checkpoints; null for one at the end only.
        keep: Number of checkpoints that are kept.
        max_skipped: Number of non-finite steps in a row after which training fails.

    Raises:
        ValueError: An option out of its range.
    """

    steps: int = 3300
    batch_size: int = 64
    accumulate: int = 1
    warmup: int = 100
    final_lr: float = 0.0
    decay_after: int | None = None
    clip: float | None = 5.0
    ema: Profile = field(default_factory=PowerFunction)
    snapshots: int | None = None
    snapshot_stds: Sequence[float] = (0.05, 0.1)
    stratified: bool = True
    flip: bool = False
    augment: float | None = None
    dequantise: bool = True
    bf16: bool = False
    compile: bool = False
    channels_last: bool = False
    workers: int = 2
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int | None = 500
    keep: int = 2
    max_skipped: int = 20

    def __post_init__(self) -> None:
        # A tuple is what a default of a dataclass may be, and no value of a configuration.
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        for problem in option_problems("training", plain, prefix="training."):
            raise ValueError(problem)
        if not isinstance(self.ema, Profile):
            raise ValueError(f"training.ema is {self.ema!r}, expected a profile such as HalfLife")

    def lr_factor(self, step: int) -> float:
        """Learning rate of `step` (0, 1, ...) as a fraction of its peak: linear warm-up, then a cosine, and 1/√step."""
        late = 1.0 if self.decay_after is None else max(step / self.decay_after, 1) ** -0.5
        if step < self.warmup:
            return late * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return late * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))
