"""How a network is told the noise level and the class: noise-level features and the conditioning vector."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked


@checked
class FourierFeatures(nn.Module):
    r"""Cosines and sines of the noise level at evenly spaced frequencies.

    .. math:: \sqrt 2 \cos(\omega_k c), \; \sqrt 2 \sin(\omega_k c), \qquad
        \omega_k = \omega_{\max} \, k / K, \quad k = 1, \ldots, K = \mathrm{dim} / 2

    The mean square over the features is one at every ``c``, and no feature changes faster than
    ``sqrt(2) * max_frequency`` per unit of ``c``. The default is low on purpose: it already tells apart all
    values of ``c = log(sigma / alpha) / 4``, about [-2, 1.5], and the network stays a smooth function of the
    noise level, which lets a solver take larger steps.

    Args:
        dim: number of features, even.
        max_frequency: highest angular frequency, in radians per unit of ``c``.

    Shapes: ``(B,)`` to ``(B, dim)``.

    Raises:
        ValueError: if ``dim`` is not a positive even number or ``max_frequency`` is not positive.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_frequency: float = 3.0) -> None:
        super().__init__()
        _check_dim(dim, least=2)
        if not 0 < max_frequency < math.inf:
            raise ValueError(f"max_frequency must be positive and finite, got {max_frequency}")
        self.dim = dim
        self.max_frequency = max_frequency
        half = dim // 2
        # Not on the default device, so that an outline of the network on the meta device has them, too.
        frequencies = max_frequency / half * torch.arange(1, half + 1, device="cpu")
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = c_noise[:, None] * self.frequencies
        return math.sqrt(2) * torch.cat((phase.cos(), phase.sin()), dim=1)


@checked
class GaussianFourierFeatures(nn.Module):
    r"""Sines and cosines of the noise level at random frequencies (Song et al. 2021, appendix C.1).

    .. math:: \sin(2 \pi w_k c), \; \cos(2 \pi w_k c), \qquad w_k \sim \mathcal N(0, \mathrm{scale}^2)

    The frequencies are drawn once, from ``seed``, never trained, and saved in the state dict.

    Args:
        dim: number of features, even.
        scale: standard deviation of the frequencies, in cycles per unit of ``c``.
        seed: of the draw.

    Shapes: ``(B,)`` to ``(B, dim)``.

    Raises:
        ValueError: if ``dim`` is not a positive even number or ``scale`` is not positive.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float = 16.0, seed: int = 0) -> None:
        super().__init__()
        _check_dim(dim, least=2)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.dim = dim
        generator = torch.Generator("cpu").manual_seed(seed)
        frequencies = scale * torch.randn(dim // 2, generator=generator, device="cpu")
        self.register_buffer("frequencies", frequencies)

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = 2 * math.pi * c_noise[:, None] * self.frequencies
        return torch.cat((phase.sin(), phase.cos()), dim=1)


@checked
class PositionalFeatures(nn.Module):
    r"""The transformer's position encoding of the noise level, as in DDPM and DDPM++ (Ho et al. 2020).

    .. math:: \sin(\omega_k s c), \; \cos(\omega_k s c), \qquad
        \omega_k = \mathrm{max\_period}^{-k / (K - 1)}, \quad k = 0, \ldots, K - 1, \quad K = \mathrm{dim} / 2

    Args:
        dim: number of features, even and at least 4.
        max_period: inverse of the lowest angular frequency.
        scale: ``s``, what the noise level is multiplied by first. 1 takes ``log(sigma / alpha) / 4`` (EDM) or
            the integer step of a DDPM as it is; 999 takes a time in [0, 1] to a thousand steps (DDPM++).

    Shapes: ``(B,)`` to ``(B, dim)``.

    Raises:
        ValueError: if ``dim`` is odd or below 4, or ``max_period`` or ``scale`` is not positive.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_period: float = 10000.0, scale: float = 1.0) -> None:
        super().__init__()
        _check_dim(dim, least=4)
        if not (0 < max_period < math.inf and 0 < scale < math.inf):
            raise ValueError(f"max_period and scale must be positive and finite, got {max_period} and {scale}")
        self.dim = dim
        half = dim // 2
        frequencies = scale * max_period ** (-torch.arange(half, device="cpu") / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = c_noise[:, None] * self.frequencies
        return torch.cat((phase.sin(), phase.cos()), dim=1)


@checked
class Conditioning(nn.Module):
    """One vector for each sample from its noise level and its class label.

    A two-layer perceptron of the noise-level features, with a learned vector of the class added to its first
    layer. With ``label_dropout`` there is one more such vector, which stands for "no label": it replaces the
    class at that rate in training mode (drawn from torch's global generator) and wherever ``labels`` is None
    (classifier-free guidance, Ho & Salimans 2022).

    Args:
        width: length of the vector.
        embedding: module from ``(B,)`` to ``(B, dim)`` with an integer attribute ``dim``; None stands for
            ``FourierFeatures(64)``.
        num_classes: number of classes; None for a network without labels.
        label_dropout: rate at which labels are dropped in training, in [0, 1).

    Raises:
        TypeError: if ``embedding`` has no integer ``dim``.
        ValueError: if ``num_classes`` is below 1, or ``label_dropout`` outside [0, 1) or without classes.
    """

    def __init__(
        self,
        width: int,
        embedding: nn.Module | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if embedding is None:
            embedding = FourierFeatures(64)
        dim = getattr(embedding, "dim", None)
        if not isinstance(dim, int):
            raise TypeError(
                f"embedding must be a module with an integer attribute dim (its number of features), "
                f"got {type(embedding).__name__}"
            )
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, or None for no labels, got {num_classes}")
        if not 0 <= label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout}")
        if label_dropout > 0 and num_classes is None:
            raise ValueError("label_dropout needs labels to drop: set num_classes")
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.embedding = embedding
        self.input = nn.Linear(dim, width)
        self.output = nn.Linear(width, width)
        self.classes = None if num_classes is None else nn.Embedding(num_classes, width)
        self.unconditional = nn.Parameter(torch.zeros(width)) if label_dropout > 0 else None

    def forward(self, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The conditioning vectors ``(B, width)``, after their last non-linearity.

        Args:
            c_noise: noise levels ``(B,)``.
            labels: classes ``(B,)``, int64, in [0, num_classes). The range is checked for CPU tensors only:
                elsewhere the check would wait for the device.

        Raises:
            TypeError: if ``labels`` is not int64.
            ValueError: if ``labels`` is given to a network without classes, is missing from one without label
                dropout, has another shape than ``c_noise``, or is out of range.
        """
        # c_noise may be float64 or float32 whatever the weights are
        features = self.embedding(c_noise).to(self.input.weight.dtype)
        hidden = self.input(features)
        label_vector = self._label_vector(labels, c_noise)
        if label_vector is not None:
            hidden = hidden + label_vector
        return F.silu(self.output(F.silu(hidden)))

    def _label_vector(self, labels: Tensor | None, c_noise: Tensor) -> Tensor | None:
        if self.classes is None:
            if labels is not None:
                raise ValueError("this network takes no labels: leave them out, or build it with num_classes")
            return None
        if labels is None:
            if self.unconditional is None:
                raise ValueError(
                    f"this network needs labels in [0, {self.num_classes}): pass labels, "
                    f"or build it with label_dropout > 0 to have an unconditional class"
                )
            return self.unconditional
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels must be a tensor, got {type(labels).__name__}: use torch.as_tensor(labels)")
        if labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, got {labels.dtype}: use labels.long()")
        if labels.shape != c_noise.shape:
            raise ValueError(
                f"labels must have shape {tuple(c_noise.shape)}, one per sample, got {tuple(labels.shape)}"
            )
        try:
            # CPU look-ups check the range themselves, so there is no second pass over the labels
            vectors: Tensor = self.classes(labels)
        except IndexError as error:
            raise ValueError(
                f"labels must be in [0, {self.num_classes}), got one outside: number the classes from 0"
            ) from error
        if self.unconditional is not None and self.training:
            drop = torch.rand(labels.shape, device=labels.device) < self.label_dropout
            vectors = torch.where(drop[:, None], self.unconditional, vectors)
        return vectors


class Modulation(nn.Module):
    """Scale and shift of features by the conditioning vector, ``h * (1 + scale) + shift`` (FiLM, adaLN).

    Shapes: ``h`` ``(B, channels, ...)``, ``condition`` ``(B, width)``.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        parameters = self.linear(condition)
        scale, shift = parameters.view(*parameters.shape, *(1,) * (h.ndim - 2)).chunk(2, dim=1)
        return torch.addcmul(shift, h, 1 + scale)


def check_inputs(x: Tensor, c_noise: Tensor, shape: tuple[int, ...]) -> None:
    """Check a batch ``(B, *shape)`` and its noise levels ``(B,)``.

    Raises:
        ValueError: naming what came and what was expected.
    """
    if x.ndim == 0 or x.shape[1:] != shape:
        expected = ", ".join(("B", *map(str, shape)))
        raise ValueError(f"x must have shape ({expected}) to fit this network, got {tuple(x.shape)}")
    if c_noise.shape != x.shape[:1]:
        raise ValueError(f"c_noise must have shape ({x.shape[0]},), one per sample, got {tuple(c_noise.shape)}")


def _check_dim(dim: int, least: int) -> None:
    if dim < least or dim % 2:
        raise ValueError(f"dim must be an even number of at least {least}, got {dim}")
