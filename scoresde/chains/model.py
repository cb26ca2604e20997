"""The interface of models that undo the steps of a Markov chain."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from scoresde.data.info import DataInfo
from scoresde.numerics.modes import evaluating
from scoresde.score import Conditions
from scoresde.sde import Chain, StepDistribution

__all__ = ["ChainModel"]

AnyChain = TypeVar("AnyChain", bound=Chain, covariant=True)


class ChainModel(nn.Module, ABC, Generic[AnyChain]):
    """A model p(x_{t−1} | x_t) of the reverse of every step of a chain, which starts from the chain's prior.

    A subclass gives `reverse`. It is the model of which `scoresde.likelihood.chain_bound` bounds the likelihood, and
    from which `sample_chain` draws.

    Args:
        chain: The chain whose steps are undone.
    """

    def __init__(self, chain: AnyChain) -> None:
        super().__init__()
        self.chain: AnyChain = chain

    @abstractmethod
    def reverse(self, x: Tensor, t: Tensor, **cond: Any) -> StepDistribution:
        """The distribution p(x_{t−1} | x_t) of the state before step t.

        Args:
            x: States x_t `(B, ...)` in model space.
            t: Steps `(B,)`, from 1 to T.
            **cond: Conditions for the network.
        """

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> StepDistribution:
        """The same as `reverse`."""
        return self.reverse(x, t, **cond)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape `(...)` of one sample; None if unknown."""
        return None

    @property
    def condition_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shapes of the conditions of a sample beside its label, by name; None for a free size."""
        return {}

    def takes_condition(self, name: str) -> bool:
        """Whether the model takes a condition of this name beside labels."""
        return ("tokens" if name == "mask" else name) in self.condition_shapes

    @property
    def info(self) -> DataInfo | None:
        """Facts about the model's data, such as their transform; None if not known."""
        return None

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next((v.device for v in itertools.chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of continuous states, and of the probabilities of discrete ones."""
        found = next((v.dtype for v in self.parameters() if v.is_floating_point()), torch.float32)
        return torch.float64 if found == torch.float64 else torch.float32

    @property
    def draws_last(self) -> bool:
        """Whether the last step of sampling is drawn; otherwise its mode is taken."""
        return True

    def conditions(self, cond: Mapping[str, Any], count: int) -> Conditions:
        """The conditions of `count` samples as the model takes them; see `Conditions`."""
        return Conditions.of(cond, count, self.device, self.info)

    def to_model_space(self, x: Tensor) -> Tensor:
        """Data `(B, ...)` in model space, where the chain is."""
        return x

    def to_data_space(self, x: Tensor) -> Tensor:
        """The inverse of `to_model_space`."""
        return x

    def log_det(self, shape: tuple[int, ...]) -> float:
        """The change of log-densities from model space to the data's units for samples of this shape, in nats."""
        return 0.0

    def check_batch(self, x: Tensor) -> None:
        """Check that x is a batch of states of the model's shape.

        Raises:
            ValueError: Any other shape.
        """
        if x.ndim < 2 or len(x) < 1 or (self.shape is not None and tuple(x.shape[1:]) != self.shape):
            expected = "..." if self.shape is None else ", ".join(map(str, self.shape))
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {expected}) with at least one sample")

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode inside the block; afterwards each module is in the mode that it had."""
        return evaluating(self)
