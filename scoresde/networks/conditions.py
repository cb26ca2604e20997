"""Conditions that a network takes beside labels, each in a module of its own: a vector, an image, and tokens.

Values are given in their own units. Vectors and images are standardised inside by moments that are a part of the
network's state, set by `set_scales` from those of the training data.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.networks.labels import check_dropped, left_out

__all__ = [
    "ConditionInput",
    "Draws",
    "Dropout",
    "ImageInput",
    "Size",
    "TokenInput",
    "VectorInput",
    "check_attends_to_tokens",
    "check_superfluous",
    "condition_rates",
    "condition_shapes",
    "has_unconditional",
    "set_scales",
    "settled",
]

_OPTIONS = {"vector": "vector_size", "image": "image_channels", "tokens": "token_size"}
Size = int | Literal["auto"] | None
"""The size of a condition; "auto" is settled by `scoresde train`, which knows the data; None: without."""
Dropout = float | Mapping[str, float]
"""The rate at which conditions are dropped in training: one for all, or one for each kind by its name."""


class Draws(NamedTuple):
    """Which samples of a batch are without their conditions.

    Attributes:
        dropped: True for samples that are to be without any, `(B,)` boolean; None for none.
        uniform: Numbers in [0, 1), `(B,)`, below whose rate every kind is dropped; None: every kind draws its own.
    """

    dropped: Tensor | None = None
    uniform: Tensor | None = None

    @classmethod
    def of(cls, c_noise: Tensor, dropped: Tensor | None, rate: Dropout, training: bool) -> "Draws":
        """The draws of a batch with noise levels `(B,)`; with one rate all kinds of a sample are dropped together."""
        joint = training and not isinstance(rate, Mapping) and rate > 0
        return cls(dropped, torch.rand(c_noise.shape, device=c_noise.device) if joint else None)


def settled(name: str, size: Size) -> int | None:
    """The size of a condition as a number.

    Raises:
        ValueError: "auto", or a size below 1.
    """
    if isinstance(size, str):
        raise ValueError(
            f"{_OPTIONS[name]} is {size!r}, which scoresde train settles by the data: give a number or None"
        )
    if size is not None and size < 1:
        raise ValueError(f"{_OPTIONS[name]} must be at least 1, or None for no {name}, got {size}")
    return size


def condition_rates(rate: Dropout, kinds: Mapping[str, int | None]) -> dict[str, float]:
    """The rate of every kind that a network takes.

    Args:
        rate: One for all, or by kind; a kind that is not there has 0.
        kinds: Sizes of the kinds by name, such as `{"vector": 3, "image": None}`; None for a kind that is not taken.

    Raises:
        ValueError: A rate outside [0, 1), of another kind, or without any condition.
    """
    taken = [name for name, size in kinds.items() if size is not None]
    rates = dict(rate) if isinstance(rate, Mapping) else dict.fromkeys(taken, rate)
    if not taken and not isinstance(rate, Mapping) and rate > 0:
        raise ValueError(
            f"condition_dropout needs conditions to drop: set {', '.join(_OPTIONS[name] for name in kinds)}"
        )
    for name, value in rates.items():
        if name not in taken:
            raise ValueError(f"condition_dropout has {name!r}, expected {', '.join(taken) or 'none'} of this network")
        if not 0 <= value < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), got {value}")
    return {name: rates.get(name, 0.0) for name in taken}


def condition_shapes(
    vector_size: int | None = None, image_channels: int | None = None, token_size: int | None = None
) -> dict[str, tuple[int | None, ...]]:
    """The shapes of the conditions that a network takes, by name, of one sample; None for a free size."""
    every: dict[str, tuple[int | None, ...]] = {
        "vector": (vector_size,),
        "image": (image_channels, None),
        "tokens": (None, token_size),
    }
    return {name: shape for name, shape in every.items() if any(size is not None for size in shape)}


def has_unconditional(num_classes: int | None, label_dropout: float, rates: Mapping[str, float]) -> bool:
    """True if a network takes conditions, and all of them are dropped in training."""
    every = [*rates.values(), *([] if num_classes is None else [label_dropout])]
    return bool(every) and min(every) > 0


def check_superfluous(given: Mapping[str, Tensor | None], taken: Mapping[str, tuple[int | None, ...]]) -> None:
    """Refuse conditions that a network does not take.

    Args:
        given: Values by name; None for what is not given.
        taken: The network's `condition_shapes`.

    Raises:
        ValueError: Such a condition.
    """
    for name, value in given.items():
        kind = "tokens" if name == "mask" else name
        if value is not None and kind not in taken:
            raise ValueError(f"this network takes no {name}: leave it out, or build it with {_OPTIONS[kind]}")


def check_attends_to_tokens(network: nn.Module, token_size: int | None, mend: str) -> None:
    """Refuse tokens for a network without a block that attends to them.

    Raises:
        ValueError: Such a network; `mend` says how to have such blocks.
    """
    if token_size is not None and not any(getattr(m, "to_tokens", None) is not None for m in network.modules()):
        raise ValueError(f"token_size needs blocks with attention, which attend to tokens: {mend}")


class ConditionInput(nn.Module):
    """What all kinds have in common: the rate of dropout, and the checks.

    Args:
        name: Name of the condition, for messages.
        rate: Rate at which it is dropped in training; above 0 there is something in its place.
    """

    def __init__(self, name: str, rate: float) -> None:
        super().__init__()
        self.name, self.rate = name, rate

    def without(self, c_noise: Tensor, draws: Draws) -> Tensor | None:
        """Which samples are without the condition, `(B,)` boolean; None if all have theirs."""
        check_dropped(draws.dropped, c_noise, self.rate > 0)
        return left_out(c_noise, self.rate if self.training else 0.0, *draws)

    def check(self, value: Tensor | None, expected: str, fits: bool, count: int) -> bool:
        """Check the condition of a batch; whether there is one.

        Raises:
            TypeError: A value that is no tensor, or of another dtype than `expected` says.
            ValueError: None where the network needs one, or another shape.
        """
        if value is None:
            if self.rate == 0:
                raise ValueError(
                    f"this network needs {self.name} {expected}: pass {self.name}, or build it with "
                    "condition_dropout > 0 to have something in its place"
                )
            return False
        if not fits or len(value) != count:
            expected = expected.replace("(B,", f"({count},")
            raise ValueError(f"{self.name} must have shape {expected}, got {tuple(value.shape)}")
        if not value.is_floating_point() and not (self.name == "image" and value.dtype == torch.uint8):
            kinds = "floating point or uint8" if self.name == "image" else "floating point"
            raise TypeError(f"{self.name} must be {kinds}, got {value.dtype}: use {self.name}.float()")
        return True


class _Standardised(ConditionInput):
    """A condition that is standardised along its first dimension, and in whose place there are `none` values."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, size: int, rate: float, none: int) -> None:
        super().__init__(name, rate)
        self.size = size
        self.none = nn.Parameter(torch.zeros(none)) if rate > 0 else None
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("std", torch.ones(size, dtype=torch.float64))

    def set_scale(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the moments of the training data.

        Raises:
            ValueError: Those of a condition of another size.
        """
        if len(mean) != self.size:
            raise ValueError(
                f"the network takes {self.name} of {self.size} {'values' if self.name == 'vector' else 'channels'}, "
                f"and the data have {len(mean)}"
            )
        for buffer, values in ((self.mean, mean), (self.std, std)):
            buffer.copy_(torch.tensor(values, dtype=torch.float64))

    def standardised(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        scale = (self.size, *(1,) * (value.ndim - 2))
        # In the wider of both: an offset such as that of a time stamp would cost float32 its digits.
        return ((value - self.mean.view(scale)) / self.std.view(scale)).to(dtype)


class VectorInput(_Standardised):
    """A vector `(B, size)` as an addend `(B, width)` to the conditioning vector: W₂ silu(W₁ v) of standardised v.

    Args:
        size: Number of values.
        width: Length of the conditioning vector.
        rate: Rate at which vectors are dropped in training; a learned addend is then in their place.
    """

    def __init__(self, size: int, width: int, rate: float = 0.0) -> None:
        super().__init__("vector", size, rate, width)
        self.first: nn.Module = nn.Linear(size, width)
        self.second: nn.Module = nn.Linear(width, width)

    def mapped(self, standard: Tensor) -> Tensor:
        """The addend of standardised vectors."""
        out: Tensor = self.second(F.silu(self.first(standard)))
        return out

    def forward(self, vector: Tensor | None, c_noise: Tensor, draws: Draws) -> Tensor:
        without = self.without(c_noise, draws)
        fits = isinstance(vector, Tensor) and vector.ndim == 2 and vector.shape[1] == self.size
        if not self.check(vector, f"(B, {self.size})", fits, len(c_noise)) or vector is None:
            assert self.none is not None
            return self.none.expand(len(c_noise), -1)
        out = self.mapped(self.standardised(vector, next(self.first.parameters()).dtype))
        if without is None or self.none is None:
            return out
        return torch.where(without[:, None], self.none.to(out.dtype), out)


class ImageInput(_Standardised):
    """An image `(B, size, ...)` as further channels of the network's input, at the size of the samples.

    A smaller image is made larger by (bi-, tri-)linear interpolation between the centres of its cells; a larger one is
    made smaller by means over cells.

    Args:
        size: Number of channels.
        rate: Rate at which images are dropped in training; a learned value of each channel is then in their place.
    """

    def __init__(self, size: int, rate: float = 0.0) -> None:
        super().__init__("image", size, rate, size)

    def forward(self, image: Tensor | None, x: Tensor, c_noise: Tensor, draws: Draws) -> Tensor:
        """The samples with the channels of their images behind their own, `(B, C + size, ...)`."""
        without = self.without(c_noise, draws)
        fits = isinstance(image, Tensor) and image.ndim == x.ndim and image.shape[1] == self.size
        sizes = {3: "L", 4: "H, W", 5: "D, H, W"}[x.ndim]
        none = None if self.none is None else self.none.to(x.dtype).view(self.size, *(1,) * (x.ndim - 2))
        if not self.check(image, f"(B, {self.size}, {sizes})", fits, len(x)) or image is None:
            assert none is not None
            return torch.cat((x, none.expand(len(x), self.size, *x.shape[2:])), dim=1)
        out = _resized(self.standardised(image, x.dtype), x.shape[2:])
        if without is not None and none is not None:
            out = torch.where(without.view(-1, *(1,) * (x.ndim - 1)), none, out)
        return torch.cat((x, out), dim=1)


def _resized(image: Tensor, sizes: torch.Size) -> Tensor:
    own = image.shape[2:]
    if own == sizes:
        return image
    if any(a > b for a, b in zip(own, sizes, strict=True)):
        return F.interpolate(image, tuple(sizes), mode="area")
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(sizes)]
    return F.interpolate(image, tuple(sizes), mode=mode, align_corners=False)


class TokenInput(ConditionInput):
    """Tokens `(B, L, size)` as what features attend to, with one more that is learned.

    Every sample attends to the learned token as well, so that a sample without tokens, whose mask is False everywhere
    or whose tokens are dropped, attends to it alone.

    Args:
        size: Length of a token.
        rate: Rate at which tokens are dropped in training.
    """

    def __init__(self, size: int, rate: float = 0.0) -> None:
        super().__init__("tokens", rate)
        self.size = size
        self.learned = nn.Parameter(0.02 * torch.randn(size))
        self.norm = nn.LayerNorm(size)

    def forward(
        self, tokens: Tensor | None, mask: Tensor | None, c_noise: Tensor, draws: Draws, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens `(B, 1 + L, size)`, and which of them count, `(B, 1, 1, 1 + L)` boolean; None: all."""
        without = self.without(c_noise, draws)
        count = len(c_noise)
        fits = isinstance(tokens, Tensor) and tokens.ndim == 3 and tokens.shape[2] == self.size
        given = self.check(tokens, f"(B, L, {self.size})", fits, count)
        first = self.learned.to(dtype).expand(count, 1, -1)
        if not given or tokens is None:
            if mask is not None:
                raise ValueError("mask is of tokens, and there are none: pass tokens, or leave mask out")
            return first, None
        if mask is not None and (mask.dtype != torch.bool or mask.shape != tokens.shape[:2]):
            shape = tuple(tokens.shape[:2])
            raise ValueError(f"mask must be boolean {shape}, one for each token, got {mask.dtype} {tuple(mask.shape)}")
        everything = torch.cat((first, self.norm(tokens.to(dtype))), dim=1)
        if mask is None and without is None:
            return everything, None
        counts = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        if without is not None:
            counts = counts & ~without[:, None]
        return everything, F.pad(counts, (1, 0), value=True)[:, None, None]


def set_scales(network: nn.Module, scales: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Give a network the moments of the training data's conditions, for those that it standardises.

    Args:
        network: The network.
        scales: Means and standard deviations, of each value of a vector and of each channel of an image, by name.

    Raises:
        ValueError: A condition of another size than the network takes.
    """
    for module in network.modules():
        if isinstance(module, _Standardised) and module.name in scales:
            module.set_scale(*scales[module.name])
