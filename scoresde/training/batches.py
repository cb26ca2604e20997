"""Training batches, in which everything random is a function of the seed, the step and the sample's index in the batch.

So a resumed run has the batches that it would have had without the interruption, and several processes draw the
numbers that one would, dropout apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor

from scoresde.data import Data, batch_indices
from scoresde.data.augmentation import NORMALS, UNIFORMS, augmented
from scoresde.data.rows import Rows
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.training.options import Training
from scoresde.training.prefetch import Ahead

__all__ = ["Batch", "Batches"]

# Batches of held-out samples in the held-out loss.
_HELD_OUT_BATCHES = 2
# Share of an accelerator's free memory that the training data may take.
_SHARE = 1 / 8


class Batch(NamedTuple):
    """One process's part of a training batch, on its device.

    Attributes:
        x0: `(B, ...)` samples in model space.
        u: `(B,)` float64 uniform numbers in [0, 1) from which the objective takes the times.
        noise: `(B, ...)` standard normal noise ε.
        conditions: `labels` `(B,)` for a model with classes, others that it takes, by name, and what the data's
            `low_resolution` makes.
        generator: Generator for objectives that draw more, seeded anew for each step.
    """

    x0: Tensor
    u: Tensor
    noise: Tensor
    conditions: dict[str, Tensor]
    generator: torch.Generator


class Batches:
    """The batches of a data set.

    Training data that take up to an eighth of an accelerator's free memory are kept there, so that a step copies the
    indices of its samples alone. Samples that are not in memory are read ahead of their step, until `close`.

    Args:
        data: Data set.
        options: Options of training.
        processes: This process's device, and its rank among those that share a batch.
        conditional: Whether the model takes labels.
        names: Names of the other conditions that it takes.
    """

    def __init__(
        self, data: Data, options: Training, processes: PartialState, conditional: bool, names: Sequence[str] = ()
    ) -> None:
        self.data, self.options, self.processes, self.conditional = data, options, processes, conditional
        self.names = names
        if options.flip and len(data.shape) != 3:
            raise ValueError(
                f"training.flip mirrors images, and samples of {data.name} have shape {tuple(data.shape)}: "
                "leave it out, or set training.flip=false"
            )
        if options.augment is not None:
            _check_augmentation(options, data, names)
        self._dequantise = data.transform.levels is not None and options.dequantise
        self._train_conditions = self._wanted(data.train_labels, data.train_conditions)
        self._train: Tensor | Ahead
        if isinstance(data.train, Rows):
            pinned = processes.device.type != "cpu"
            self._train = Ahead(data.train, self._chosen, options.steps, options.workers, pinned)
            return
        self._train = data.train
        if _fits((self._train, *self._train_conditions.values()), processes.device):
            self._train = self._train.to(processes.device)
            self._train_conditions = {
                name: values.to(processes.device) for name, values in self._train_conditions.items()
            }

    def __call__(self, step: int) -> Batch:
        """Part of the batch of `step` (0, 1, ...) that is this process's; it also seeds torch's own generator."""
        options, device = self.options, self.processes.device
        rank, world = self.processes.process_index, self.processes.num_processes
        chosen = self._chosen(step)
        index = torch.arange(options.batch_size)[rank::world]
        noise = SampleNoise(
            options.seed, step * options.batch_size + index, self.data.shape, device=device, stream=Stream.BATCH_NOISE
        )
        raw = self._raw(step, chosen)
        x0 = self.data.transform.encode(raw, noise.uniform() if self._dequantise else None)
        conditions = {name: _rows(values, chosen, device) for name, values in self._train_conditions.items()}
        if options.flip:
            flipped = self._flipped(step, index)[:, None, None, None]
            x0 = torch.where(flipped, x0.flip(-1), x0)
            if "image" in conditions:
                conditions["image"] = torch.where(flipped, conditions["image"].flip(-1), conditions["image"])
        if options.augment is not None:
            x0, conditions["augment_labels"] = self._augmented(x0, step, index)
        if options.channels_last and x0.ndim == 4:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        epsilon = noise()
        seed = _step_seed(options.seed, step)
        if options.stratified:
            start = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            u = (start + index.double() / options.batch_size) % 1
        else:
            u = SampleNoise(
                options.seed, step * options.batch_size + index, (1,), torch.float64, stream=Stream.BATCH_TIMES
            ).uniform()[:, 0]
        conditions = self._made(conditions, x0, step * options.batch_size + index)
        # For dropout, and for objectives that draw projections.
        torch.manual_seed(seed + rank)
        generator = torch.Generator(device).manual_seed(seed + rank)
        return Batch(x0, u.to(device), epsilon, conditions, generator)

    def close(self) -> None:
        """Stop reading ahead; another batch starts it again."""
        if isinstance(self._train, Ahead):
            self._train.close()

    def _chosen(self, step: int) -> Tensor:
        """Indices of the samples of this process's part of a step."""
        options, rank, world = self.options, self.processes.process_index, self.processes.num_processes
        return batch_indices(len(self.data.train), options.batch_size, step, options.seed)[rank::world]

    def _raw(self, step: int, chosen: Tensor) -> Tensor:
        """The samples of this process's part of a step, on its device."""
        if isinstance(self._train, Ahead):
            return self._train(step).to(self.processes.device, non_blocking=True)
        return _rows(self._train, chosen, self.processes.device)

    def held_out(self) -> list[Batch]:
        """Batches of test data for the held-out loss, the same whenever they are asked for."""
        options, device = self.options, self.processes.device
        order = torch.randperm(len(self.data.test), generator=torch.Generator().manual_seed(options.seed))
        chosen = order[: _HELD_OUT_BATCHES * options.batch_size]
        noise = SampleNoise(
            options.seed, torch.arange(len(chosen)), self.data.shape, device=device, stream=Stream.HELD_OUT_NOISE
        )
        # Stratified like the batches; a draw of their own would let the curve jump.
        u = (torch.arange(len(chosen), dtype=torch.float64) + 0.5) / len(chosen)
        u = u[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(options.seed))].to(device)
        raw = self.data.test[chosen].to(device)
        x0 = self.data.transform.encode(raw, noise.uniform() if self._dequantise else None)
        wanted = self._wanted(self.data.test_labels, self.data.test_conditions)
        epsilon, conditions = noise(), {name: _rows(values, chosen, device) for name, values in wanted.items()}
        conditions = self._made(conditions, x0, -1 - torch.arange(len(chosen)))  # indices that no batch has
        parts = [slice(start, start + options.batch_size) for start in range(0, len(x0), options.batch_size)]
        return [
            Batch(
                x0[rows],
                u[rows],
                epsilon[rows],
                {name: value[rows] for name, value in conditions.items()},
                torch.Generator(device).manual_seed(options.seed),
            )
            for rows in parts
        ]

    def _flipped(self, step: int, index: Tensor) -> Tensor:
        """Which samples of a step are mirrored, `(B,)`."""
        options = self.options
        drawn = SampleNoise(
            options.seed, step * options.batch_size + index, (1,), torch.float64, stream=Stream.BATCH_FLIPS
        )
        return (drawn.uniform()[:, 0] < 0.5).to(self.processes.device)

    def _augmented(self, x0: Tensor, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images of a step, augmented, and the labels that tell of it."""
        options = self.options
        assert options.augment is not None
        places = step * options.batch_size + index
        drawn = SampleNoise(options.seed, places, (UNIFORMS,), torch.float64, stream=Stream.BATCH_TRANSFORMATIONS)
        return augmented(x0, drawn.uniform(), drawn()[:, :NORMALS], options.augment)

    def _wanted(self, labels: Tensor | None, others: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The conditions that the model takes, of all samples, by name."""
        found = {name: (others or {})[name] for name in self.names}
        if self.conditional:
            assert labels is not None
            found["labels"] = labels
        return found

    def _made(self, conditions: dict[str, Tensor], x0: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """The conditions, with those that are made of the samples themselves, if any are."""
        low = self.data.low_resolution
        return (
            conditions if low is None else low.joined(conditions, x0, self.data.transform, self.options.seed, indices)
        )


def _fits(parts: Iterable[Tensor], device: torch.device) -> bool:
    """Whether tensors are to be kept on a device: an accelerator that tells of enough free memory."""
    if device.type == "cpu":
        return False
    try:
        free, _ = torch.accelerator.get_memory_info(device)
    except (RuntimeError, NotImplementedError):  # it is of a kind that does not tell
        return False
    return sum(values.nbytes for values in parts) <= _SHARE * free


def _rows(values: Tensor, chosen: Tensor, device: torch.device) -> Tensor:
    """Some samples `(b, ...)` of all, on a device."""
    return values[chosen.to(values.device, non_blocking=True)].to(device, non_blocking=True)


def _check_augmentation(options: Training, data: Data, names: Sequence[str]) -> None:
    """Reject what augmentation does not do.

    Raises:
        ValueError: Samples that are no images, mirroring twice, or images as conditions.
    """
    if len(data.shape) != 3:
        raise ValueError(
            f"training.augment transforms images, and samples of {data.name} have shape {tuple(data.shape)}: "
            "set training.augment=null"
        )
    if options.flip:
        raise ValueError("training.augment mirrors images, too: set training.flip=false")
    if "image" in names:
        raise ValueError("training.augment does not transform the images that samples are conditioned on: set it null")


def _step_seed(seed: int, step: int) -> int:
    """A seed for a step: neighbours must not look alike, and seed + step would repeat."""
    return int(SampleNoise(seed, torch.tensor([step]), (1,), torch.float64, stream=Stream.STEP_SEED).seeds())
