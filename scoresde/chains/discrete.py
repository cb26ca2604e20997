"""Reverse steps of discrete chains by a network that predicts the data."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scoresde.arguments import checked
from scoresde.chains.model import ChainModel
from scoresde.data.info import DataInfo
from scoresde.sde import BinomialChain, CategoricalStep
from scoresde.sde.erasure import ErasureChain
from scoresde.statistics import Statistics

__all__ = ["DiscreteChainModel"]


@checked
class DiscreteChainModel(ChainModel[ErasureChain]):
    """The reverse steps of a discrete chain by a network that predicts the probabilities of x₀ (Austin et al. 2021).

        p(x_{t−1} | x_t) = Σ_k p(x₀ = k | x_t) q(x_{t−1} | x_t, x₀ = k)

    for each element. It is the true reverse step for elements that are independent given x_t, and its limit for all
    data as steps grow in number.

    The network maps (x, c_noise, **cond) to logits of the shape of its input, with c_noise = 1 − ᾱ_t, the share that is
    noise, `(B,)`:

        bits:       bits b as 2b − 1, `(B, ...)`, to the log-odds of x₀ = 1
        classes:    S indicators for each element, which take the place of its first axis, `(B, C S, ...)` for samples
                    `(C, ...)`, in the order c S + s, to logits of the states in the same order; that of a mask is
                    ignored

    Args:
        network: The network; its attribute `shape`, where it has one, says the shape of its input.
        chain: A `BinomialChain` or a `CategoricalChain`.
        statistics: Moments of the states of the training data, which are kept with the model.

    References:
        Austin et al. 2021, Structured denoising diffusion models in discrete state-spaces,
            https://arxiv.org/abs/2107.03006
    """

    _info: DataInfo | None = None

    def __init__(self, network: nn.Module, chain: ErasureChain, statistics: Statistics | None = None) -> None:
        super().__init__(chain)
        self.network = network
        self.statistics = statistics
        shape = self._network_shape
        if shape is not None and shape[0] % self._channels:
            raise ValueError(
                f"the network is for shape {shape}, expected {chain.states} channels for each channel of the data, one "
                f"for each state of {chain!r}"
            )

    @property
    def unwrapped(self) -> nn.Module:
        """The network without the wrapper that training in several processes puts around it."""
        module = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        assert isinstance(module, nn.Module)
        return module

    @property
    def _network_shape(self) -> tuple[int, ...] | None:
        shape = getattr(self.unwrapped, "shape", None)
        return shape if isinstance(shape, tuple) else None

    @property
    def _channels(self) -> int:
        return self.channels_of(self.chain)

    @staticmethod
    def channels_of(chain: ErasureChain) -> int:
        """Channels of the network for a channel of the data: 1 for bits, and one for each state of classes."""
        return 1 if isinstance(chain, BinomialChain) else chain.states

    @property
    def classes(self) -> int | None:
        """Number of classes that `labels` choose from; None if the network takes no labels."""
        classes = getattr(self.unwrapped, "num_classes", None)
        return None if classes is None else int(classes)

    @property
    def condition_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shapes that the network says."""
        shapes: Mapping[str, tuple[int | None, ...]] = getattr(self.unwrapped, "condition_shapes", {})
        return shapes

    @property
    def info(self) -> DataInfo | None:
        """Facts about the model's data; None if not known. It can be set, and is not part of the state dict."""
        return self._info

    @info.setter
    def info(self, info: DataInfo | None) -> None:
        self._info = info

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The log-SNR ½ log(ᾱ/(1 − ᾱ)) after the last step at which a signal is left, and after the first."""
        signal = self.chain.signal(torch.arange(1, self.chain.steps + 1))
        low, high = signal[signal > 0][-1].item(), signal[0].item()
        return 0.5 * math.log(low / (1 - low)), 0.5 * math.log(high / (1 - high))

    def log_snr(self, t: Tensor) -> Tensor:
        """The log-SNR after step t, no less than the least of `log_snr_range`, of the shape of t, float64."""
        signal = self.chain.signal(t)
        return (0.5 * (signal.log() - (1 - signal).log())).clamp_min(self.log_snr_range[0])

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape `(...)` of one sample, as far as the network says it."""
        shape = self._network_shape
        return None if shape is None else (shape[0] // self._channels, *shape[1:])

    def probabilities(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The probabilities p(x₀ | x_t) of the classes, `(B, ..., K)`.

        Args:
            x: States x_t `(B, ...)`.
            t: Steps `(B,)`.
            **cond: Conditions for the network.
        """
        return self.logits(x, t, **cond).softmax(-1)

    def logits(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The logits `(B, ..., K)` of p(x₀ | x_t); see `probabilities`."""
        self.check_batch(x)
        t = self.chain.check_steps(t).expand(len(x))
        level = self.chain.noise_share(t).to(x.device, self.dtype)
        if isinstance(self.chain, BinomialChain):
            odds = self._raw(2 * x.to(self.dtype) - 1, level, cond)
            return torch.stack((torch.zeros_like(odds), odds), -1)
        states = self.chain.states
        joined = self.chain.one_hot(x).to(self.dtype).movedim(-1, 2).flatten(1, 2)
        raw = self._raw(joined, level, cond).reshape(len(x), x.shape[1], states, *x.shape[2:]).movedim(2, -1)
        return raw[..., : self.chain.classes]

    def _raw(self, x: Tensor, level: Tensor, cond: dict[str, Any]) -> Tensor:
        raw: Tensor = self.network(x, level, **cond)
        if raw.shape != x.shape:
            raise ValueError(f"the network returned shape {tuple(raw.shape)}, expected {tuple(x.shape)} as its input")
        return raw

    def reverse(self, x: Tensor, t: Tensor, **cond: Any) -> CategoricalStep:
        return self.chain.mean_posterior(x, self.probabilities(x, t, **cond), t)

    def extra_repr(self) -> str:
        return repr(self.chain)
