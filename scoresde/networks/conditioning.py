"""The conditioning vector of noise level and class, and how features are modulated by it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks.conditions import Draws, VectorInput
from scoresde.networks.embedding import FourierFeatures
from scoresde.networks.labels import check_dropped, check_label_options, check_labels, looked_up, without_label

__all__ = ["Conditioning", "Modulation", "Shift", "check_inputs"]


@checked
class Conditioning(nn.Module):
    """One vector for each sample from its noise level, its class label and how it was augmented.

    It is a perceptron of two layers on the noise-level features, which always computes in float32 or float64, whatever
    autocast says. A learned vector of the class is added on the way. A sample without a label has a vector of its own
    (`no_label="learned"`), which needs `label_dropout`, or none at all (`no_label="zeros"`). Labels are dropped at that
    rate in training mode (drawn from torch's global generator; classifier-free guidance, Ho & Salimans 2022).

    Args:
        width: Length of the vector.
        embedding: Module from `(B,)` to `(B, dim)` with an integer attribute `dim`; `FourierFeatures(64)` if not given.
        num_classes: Number of classes; None for a network without labels.
        label_dropout: Rate at which labels are dropped in training, in [0, 1).
        label_place: Where the vector of the class is added: to the features ("features", SongUNet of EDM), to the first
            layer before its non-linearity ("hidden"), or to the second ("output", ADM and diffusers).
        label_scale: Factor of the vector of the class: √classes in SongUNet.
        label_bias: Add one more learned vector whether there is a label or not, as SongUNet does.
        no_label: What a sample without a label has in place of the vector of its class.
        augmentations: Number of values that say how a sample was augmented (Karras et al. 2022, appendix F.2); they are
            mapped to the features and added there.
        vector_size: Number of values of a vector that samples are conditioned on, which is added before the last
            non-linearity; None for none. See `VectorInput`.
        vector_dropout: Rate at which vectors are dropped in training, in [0, 1).

    Raises:
        TypeError: An embedding without an integer `dim`.
        ValueError: Fewer than one class, a rate of dropped labels outside [0, 1) or without classes, or a negative
            number of augmentations.
    """

    def __init__(
        self,
        width: int,
        embedding: nn.Module | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
        label_place: Literal["features", "hidden", "output"] = "hidden",
        label_scale: float = 1.0,
        label_bias: bool = False,
        no_label: Literal["learned", "zeros"] = "learned",
        augmentations: int = 0,
        vector_size: int | None = None,
        vector_dropout: float = 0.0,
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
        if augmentations < 0:
            raise ValueError(f"augmentations must be a number of values, 0 for none, got {augmentations}")
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.label_place = label_place
        self.label_scale = label_scale
        self.zeros = no_label == "zeros"
        self.augmentations = augmentations
        self.embedding = embedding
        self.input = nn.Linear(dim, width)
        self.output = nn.Linear(width, width)
        place = dim if label_place == "features" else width
        self.classes = None if num_classes is None else nn.Embedding(num_classes, place)
        learned = label_dropout > 0 and not self.zeros
        self.unconditional = nn.Parameter(torch.zeros(place)) if learned else None
        self.label_bias = nn.Parameter(torch.zeros(place)) if label_bias and num_classes is not None else None
        self.augmentation = nn.Linear(augmentations, dim, bias=False) if augmentations else None
        self.vector = None if vector_size is None else VectorInput(vector_size, width, vector_dropout)

    def forward(
        self,
        c_noise: Tensor,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        draws: Draws | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """The conditioning vectors `(B, width)`, after their last non-linearity.

        Args:
            c_noise: Noise levels, `(B,)`.
            labels: Classes in [0, num_classes), `(B,)` int64. The range is checked on the CPU only, since the check
                would wait for another device.
            augment_labels: How each sample was augmented, `(B, augmentations)`; zeros, for not at all, if not given.
            draws: Which samples are without their conditions whatever these are; none if not given.
            vector: Vectors that samples are conditioned on, `(B, vector_size)`.

        Raises:
            TypeError: Labels that are not int64, a vector that is not of floating point, or `draws.dropped` that is not
                boolean.
            ValueError: Labels for a network without classes, conditions that one needs and are None, labels of another
                shape than `c_noise`, labels out of range, a vector or augmentation labels that do not fit, or samples
                without a condition for a network that has nothing in its place.
        """
        draws = Draws() if draws is None else draws
        # Neither the features, of up to hundreds of radians, nor what is read off them can be in bfloat16.
        with torch.autocast(c_noise.device.type, enabled=False):
            # `c_noise` may be float64 or float32 whatever the dtype of the weights.
            features = self.embedding(c_noise).to(self.input.weight.dtype)
            augmented = self._augmentation_features(augment_labels, c_noise)
            if augmented is not None:
                features = features + augmented
            label_vector = self._label_vector(labels, c_noise, draws)
            if label_vector is not None and self.label_place == "features":
                features = features + label_vector
            hidden = self.input(features)
            if label_vector is not None and self.label_place == "hidden":
                hidden = hidden + label_vector
            out = self.output(F.silu(hidden))
            if label_vector is not None and self.label_place == "output":
                out = out + label_vector
            if self.vector is not None:
                out = out + self.vector(vector, c_noise, draws)
            return F.silu(out)

    def _augmentation_features(self, augment_labels: Tensor | None, c_noise: Tensor) -> Tensor | None:
        if augment_labels is None:
            return None
        if self.augmentation is None:
            raise ValueError("this network takes no augment_labels: leave them out, or build it with augmentations")
        expected = (len(c_noise), self.augmentations)
        if augment_labels.shape != expected:
            raise ValueError(f"augment_labels must have shape {expected}, got {tuple(augment_labels.shape)}")
        out: Tensor = self.augmentation(augment_labels.to(self.augmentation.weight.dtype))
        return out

    def _label_vector(self, labels: Tensor | None, c_noise: Tensor, draws: Draws) -> Tensor | None:
        """What is added for labels, `(B, ...)` or the same for all."""
        vectors = self._class_vector(labels, c_noise, draws)
        if vectors is not None and self.label_scale != 1:
            vectors = self.label_scale * vectors
        if self.label_bias is None:
            return vectors
        return self.label_bias if vectors is None else vectors + self.label_bias

    def _class_vector(self, labels: Tensor | None, c_noise: Tensor, draws: Draws) -> Tensor | None:
        optional = self.unconditional is not None or self.zeros
        given = check_labels(labels, c_noise, self.num_classes, optional)
        check_dropped(draws.dropped, c_noise, optional or self.num_classes is None)
        if self.classes is None or labels is None or not given:
            return self.unconditional
        vectors = looked_up(self.classes, labels, self.num_classes)
        without = without_label(labels, self.label_dropout if self.training else 0.0, *draws)
        if without is not None:
            instead = vectors.new_zeros(()) if self.unconditional is None else self.unconditional
            vectors = torch.where(without, instead, vectors)
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


class Shift(nn.Module):
    """Shift of features by the conditioning vector, h + shift (Ho et al. 2020).

    The module maps features h `(B, channels, ...)` and conditions `(B, width)` to features of the shape of h.

    Args:
        width: Length of the conditioning vector.
        channels: Number of channels of the features.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        shift = self.linear(condition)
        out: Tensor = h + shift.view(*shift.shape, *(1,) * (h.ndim - 2))
        return out


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
