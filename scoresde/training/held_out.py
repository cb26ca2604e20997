"""The loss on held-out data during training."""

from functools import cached_property

import torch
from torch import nn

from scoresde.chains import DiscreteChainModel
from scoresde.objectives import Criterion
from scoresde.score import NetworkScore, NoisyClassifier
from scoresde.training.batches import Batch, Batches

__all__ = ["HeldOutLoss"]

# Steps between evaluations: measured on images and in the plane, a fiftieth of the time of training.
_EVERY = 50


class HeldOutLoss:
    """The loss on test data: of the present weights without dropout, always at the same noise.

    Args:
        model: The model in training.
        network: Its network, without the wrapper for several processes.
        objective: The loss.
        batches: Batches of the data.
    """

    def __init__(
        self,
        model: NetworkScore | DiscreteChainModel | NoisyClassifier,
        network: nn.Module,
        objective: Criterion,
        batches: Batches,
    ) -> None:
        self.model, self.network, self.objective, self.batches = model, network, objective, batches
        self.options = batches.options

    def is_due(self, step: int, done: bool) -> bool:
        """True if an entry of the log at `step` has the loss: every 50 steps at most, and when training is done."""
        return done or step // _EVERY > (step - self.options.log_every) // _EVERY

    def __call__(self) -> float:
        """Mean loss of the held-out samples."""
        device, total, count = self.batches.processes.device, 0.0, 0
        # Without the copies for several processes, of which this is one, and not compiled as for training.
        wrapped, self.model.network = self.model.network, self.network
        compiled, self.network._compiled_call_impl = self.network._compiled_call_impl, None
        try:
            with self.model.evaluating(), torch.autocast(device.type, torch.bfloat16, enabled=self.options.bf16):
                for x0, u, noise, conditions, generator in self._held_out:
                    generator.manual_seed(self.options.seed)
                    loss = self.objective(self.model, x0, generator, u=u, noise=noise, **conditions)
                    total += float(loss.value.detach()) * len(x0)
                    count += len(x0)
        finally:
            self.model.network, self.network._compiled_call_impl = wrapped, compiled
        return total / count

    @cached_property
    def _held_out(self) -> list[Batch]:
        return self.batches.held_out()
