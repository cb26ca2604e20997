"""The conditioning vector of noise level and class, and how features are modulated by it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks.embedding import FourierFeatures
from scoresde.networks.labels import check_label_options, check_labels, dropped, looked_up

__all__ = ["Conditioning", "Modulation", "check_inputs"]


@checked
class Conditioning(nn.Module):
    """One vector for each sample from its noise level and its class label.

    It is a perceptron of two layers on the noise-level features, with a learned vector of the class added to its first
    layer. With `label_dropout` there is one more such vector, which stands for "no label": it replaces the class at
    that rate in training mode (drawn from torch's global generator) and if `labels` is None (classifier-free guidance,
    Ho & Salimans 2022).

    Args:
        width: Length of the vector.
        embedding: Module from `(B,)` to `(B, dim)` with an integer attribute `dim`; `FourierFeatures(64)` if not given.
        num_classes: Number of classes; None for a network without labels.
        label_dropout: Rate at which labels are dropped in training, in [0, 1).

    Raises:
        TypeError: An embedding without an integer `dim`.
        ValueError: Fewer than one class, or a rate of dropped labels outside [0, 1) or without classes.
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
        check_label_options(num_classes, label_dropout)
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.embedding = embedding
        self.input = nn.Linear(dim, width)
        self.output = nn.Linear(width, width)
        self.classes = None if num_classes is None else nn.Embedding(num_classes, width)
        self.unconditional = nn.Parameter(torch.zeros(width)) if label_dropout > 0 else None

    def forward(self, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The conditioning vectors `(B, width)`, after their last non-linearity.

        Args:
            c_noise: Noise levels, `(B,)`.
            labels: Classes in [0, num_classes), `(B,)` int64. The range is checked on the CPU only, since the check
                would wait for another device.

        Raises:
            TypeError: Labels that are not int64.
            ValueError: Labels for a network without classes, no labels for one without label dropout, labels of another
                shape than `c_noise`, or labels out of range.
        """
        # `c_noise` may be float64 or float32 whatever the dtype of the weights.
        features = self.embedding(c_noise).to(self.input.weight.dtype)
        hidden = self.input(features)
        label_vector = self._label_vector(labels, c_noise)
        if label_vector is not None:
            hidden = hidden + label_vector
        return F.silu(self.output(F.silu(hidden)))

    def _label_vector(self, labels: Tensor | None, c_noise: Tensor) -> Tensor | None:
        given = check_labels(labels, c_noise, self.num_classes, self.unconditional is not None)
        if self.classes is None or labels is None or not given:
            return self.unconditional
        vectors = looked_up(self.classes, labels, self.num_classes)
        if self.unconditional is not None and self.training:
            vectors = torch.where(dropped(labels, self.label_dropout), self.unconditional, vectors)
        return vectors


class Modulation(nn.Module):
    """Scale and shift of features by the conditioning vector, h (1 + scale) + shift (FiLM, adaLN).

    The module maps features h `(B, channels, ...)` and conditions `(B, width)` to features of the shape of h.

    Args:
        width: Length of the conditioning vector.
        channels: Number of channels of the features.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        parameters = self.linear(condition)
        scale, shift = parameters.view(*parameters.shape, *(1,) * (h.ndim - 2)).chunk(2, dim=1)
        return torch.addcmul(shift, h, 1 + scale)


def check_inputs(x: Tensor, c_noise: Tensor, shape: tuple[int, ...]) -> None:
    """Check a batch `(B, *shape)` and its noise levels `(B,)`.

    Raises:
        ValueError: Another shape of either.
    """
    if x.ndim == 0 or x.shape[1:] != shape:
        expected = ", ".join(("B", *map(str, shape)))
        raise ValueError(f"x must have shape ({expected}) to fit this network, got {tuple(x.shape)}")
    if c_noise.shape != x.shape[:1]:
        raise ValueError(f"c_noise must have shape ({x.shape[0]},), one per sample, got {tuple(c_noise.shape)}")
