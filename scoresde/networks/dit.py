"""The diffusion transformer of Peebles & Xie: an image as a sequence of patches."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks.attention import attend, softmax_attention
from scoresde.networks.conditioning import check_inputs
from scoresde.networks.conditions import (
    Draws,
    Dropout,
    ImageInput,
    Size,
    TokenInput,
    VectorInput,
    check_superfluous,
    condition_rates,
    condition_shapes,
    has_unconditional,
    settled,
)
from scoresde.networks.dropout import FeatureDropout
from scoresde.networks.embedding import PositionalFeatures
from scoresde.networks.labels import check_dropped, check_label_options, check_labels, looked_up, without_label
from scoresde.networks.sizes import check_divisible

__all__ = ["DiT", "position_embedding"]


@checked
class DiT(nn.Module):
    """A transformer on the patches of an image, modulated by noise level and label (DiT; Peebles & Xie 2023).

    The image is cut into squares of `patch` pixels, each of which becomes a vector of `width` numbers; `depth` blocks
    of self-attention and a perceptron follow, and a linear layer makes pixels of each vector again. Scale, shift and
    gain of every branch follow from the noise level and the label, and the gains start at zero (adaLN-zero): a new
    network returns exactly zero.

    The place of a patch is known by sines and cosines of its row and column, which are fixed and counted from the first
    patch. They are computed for the shape of a sample, so that the weights do not depend on it: `for_shape` is the same
    network for images of another size, which then has to be sampled there with care, since it was trained on places and
    numbers of patches of the first.

    `DiT.small`, `DiT.base`, `DiT.large` and `DiT.extra_large` make the sizes of the paper; `DiT.extra_large(shape)` is
    DiT-XL/2, of 675 million parameters for latents `(4, 32, 32)` and 1,000 classes.

    With attention, forward-mode differentiation and second derivatives need the call to run inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`; torch's fused attention kernels have neither.

    Args:
        shape: Shape of one image, `(C, H, W)`; height and width are multiples of `patch`.
        patch: Height and width of a patch.
        width: Length of the vectors, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Heads of attention.
        ratio: Width of the perceptrons' hidden layer, in multiples of `width`.
        dropout: Rate of dropout in the perceptrons, in [0, 1); 0 in the paper.
        embedding: Noise-level features, a module from `(B,)` to `(B, dim)` with an integer attribute `dim`;
            `PositionalFeatures(256, scale=1000.0)` if not given.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training, in [0, 1); with it labels may be None.
        learn_variance: Return twice the channels, `(B, 2C, ...)`; the second half is for the variances of the reverse
            steps (Nichol & Dhariwal 2021), as `NetworkScore` takes it and the paper has it.
        vector_size: Number of values of a vector that samples are conditioned on, or None.
        image_channels: Channels of an image that samples are conditioned on, or None. They are further channels of the
            patches, at the size of the samples; see `ImageInput`.
        token_size: Length of tokens that samples are conditioned on, or None. Every block attends to them after its
            self-attention; one token more is learned.
        condition_dropout: Rate at which these conditions are dropped in training, in [0, 1): one for all, which are
            then dropped together, and labels with them at their own rate; or one for each, as `{"image": 0.1}`.

    Raises:
        ValueError: A shape that is not that of an image, or of which patches are no divisor; a size or rate that is out
            of range.

    References:
        Peebles & Xie 2023, Scalable diffusion models with transformers, https://arxiv.org/abs/2212.09748

    >>> network = DiT((1, 8, 12), patch=4, width=16, depth=1, heads=2, num_classes=3)
    >>> network(torch.ones(1, 1, 8, 12), torch.zeros(1), torch.tensor([2])).abs().max()
    tensor(0., grad_fn=<MaxBackward1>)
    """

    positions: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        ratio: float = 4.0,
        dropout: float = 0.0,
        embedding: nn.Module | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
        learn_variance: bool = False,
        vector_size: Size = None,
        image_channels: Size = None,
        token_size: Size = None,
        condition_dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if min(patch, width, depth, heads) < 1 or not ratio > 0:
            raise ValueError(
                f"patch, width, depth and heads must be at least 1 and ratio positive, "
                f"got {patch}, {width}, {depth}, {heads} and {ratio}"
            )
        check_divisible("DiT", self.shape, patch, f"patch={patch}")
        if width % heads or width % 4:
            raise ValueError(
                f"width must be a multiple of 4, for the places of patches, and of heads={heads}, got {width}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        check_label_options(num_classes, label_dropout)
        self.patch = patch
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.learn_variance = learn_variance
        self.embedding = PositionalFeatures(256, scale=1000.0) if embedding is None else embedding
        dim = getattr(self.embedding, "dim", None)
        if not isinstance(dim, int):
            raise TypeError(
                f"embedding must be a module with an integer attribute dim (its number of features), "
                f"got {type(embedding).__name__}"
            )
        vector_size = settled("vector", vector_size)
        image_channels = settled("image", image_channels)
        token_size = settled("tokens", token_size)
        self.condition_dropout = condition_dropout
        self.condition_shapes = condition_shapes(vector_size, image_channels, token_size)
        kinds = {"vector": vector_size, "image": image_channels, "tokens": token_size}
        rates = condition_rates(condition_dropout, kinds)
        self.has_unconditional = has_unconditional(num_classes, label_dropout, rates)
        """Whether all conditions are dropped in training, so that the network was trained for samples without."""
        channels = self.shape[0]
        self.input = nn.Linear((channels + (image_channels or 0)) * patch**2, width)
        self.noise = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))
        # The last vector is that of "no label".
        self.classes = None if num_classes is None else nn.Embedding(num_classes + (label_dropout > 0), width)
        hidden = round(ratio * width)
        self.blocks = nn.ModuleList(_Block(width, heads, hidden, dropout, token_size) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, (1 + learn_variance) * channels * patch**2)
        places = position_embedding(self.shape[1] // patch, self.shape[2] // patch, width)
        self.register_buffer("positions", places, persistent=False)
        self.vector = None if vector_size is None else VectorInput(vector_size, width, rates["vector"])
        self.image = None if image_channels is None else ImageInput(image_channels, rates["image"])
        self.tokens = None if token_size is None else TokenInput(token_size, rates["tokens"])
        self._initialise()

    @classmethod
    def small(cls, shape: Sequence[int], patch: int = 2, **options: object) -> "DiT":
        """DiT-S: 12 blocks of width 384 with 6 heads; options are the other arguments of `DiT`."""
        return cls(shape, patch, 384, 12, 6, **options)  # type: ignore[arg-type]

    @classmethod
    def base(cls, shape: Sequence[int], patch: int = 2, **options: object) -> "DiT":
        """DiT-B: 12 blocks of width 768 with 12 heads; options are the other arguments of `DiT`."""
        return cls(shape, patch, 768, 12, 12, **options)  # type: ignore[arg-type]

    @classmethod
    def large(cls, shape: Sequence[int], patch: int = 2, **options: object) -> "DiT":
        """DiT-L: 24 blocks of width 1024 with 16 heads; options are the other arguments of `DiT`."""
        return cls(shape, patch, 1024, 24, 16, **options)  # type: ignore[arg-type]

    @classmethod
    def extra_large(cls, shape: Sequence[int], patch: int = 2, **options: object) -> "DiT":
        """DiT-XL: 28 blocks of width 1152 with 16 heads; options are the other arguments of `DiT`."""
        return cls(shape, patch, 1152, 28, 16, **options)  # type: ignore[arg-type]

    def _initialise(self) -> None:
        """The initial weights of the paper's code: Xavier for layers, small for embeddings, zero for what modulates."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for embedding in (self.noise[0], self.noise[2], self.classes):
            if isinstance(embedding, nn.Linear | nn.Embedding):
                nn.init.normal_(embedding.weight, std=0.02)
        for block in self.blocks:
            nn.init.zeros_(block.modulation.weight)  # type: ignore[union-attr, arg-type]
            if block.to_tokens is not None:
                nn.init.zeros_(block.to_tokens.project.weight)  # type: ignore[union-attr, arg-type]
        for layer in (self.modulation, self.output):
            nn.init.zeros_(layer.weight)

    def for_shape(self, shape: Sequence[int]) -> "DiT":
        """A network for images of another height and width, with the same parameters, which it shares.

        Args:
            shape: The shape `(C, H, W)`, with as many channels.

        Raises:
            ValueError: Another number of channels, or sizes that are no multiples of `patch`.
        """
        shape = tuple(shape)
        check_divisible("DiT", shape, self.patch, f"patch={self.patch}")
        if shape[0] != self.shape[0]:
            raise ValueError(f"shape has {shape[0]} channels, expected the {self.shape[0]} of the network")
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        other.shape = shape
        places = position_embedding(shape[1] // self.patch, shape[2] // self.patch, self.positions.shape[-1])
        other.positions = places.to(self.positions)
        return other

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        dropped: Tensor | None = None,
        vector: Tensor | None = None,
        image: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Raw output of the network, of the shape of `x`, or with twice its channels if it learns variances.

        Args:
            x: Scaled images, `(B, C, H, W)`.
            c_noise: Noise levels, `(B,)`.
            labels: Classes, `(B,)` int64; or None, if the network has no classes or drops labels.
            dropped: True for samples that are to be without their conditions, `(B,)` boolean; none if not given.
            vector: Vectors that samples are conditioned on, `(B, vector_size)`, in their own units.
            image: Images that samples are conditioned on, `(B, image_channels, H', W')`, in their own units.
            tokens: Tokens that samples are conditioned on, `(B, L, token_size)`.
            mask: True for tokens that count, `(B, L)` boolean; all if not given.

        Raises:
            TypeError: Conditions of another dtype, or `dropped` that is not boolean.
            ValueError: A shape that does not fit, or conditions that are missing, superfluous or out of range.
        """
        check_inputs(x, c_noise, self.shape)
        given = {"vector": vector, "image": image, "tokens": tokens, "mask": mask}
        check_superfluous(given, self.condition_shapes)
        draws = Draws.of(c_noise, dropped, self.condition_dropout, self.training)
        condition = self._condition(c_noise, labels, vector, draws)
        context = () if self.tokens is None else self.tokens(tokens, mask, c_noise, draws, x.dtype)
        if self.image is not None:
            x = self.image(image, x, c_noise, draws)
        rows, columns = (size // self.patch for size in self.shape[1:])
        # (B, C, rows, p, columns, p) to (B, rows × columns, C p p), as a convolution of stride p takes them.
        patches = x.unflatten(3, (columns, self.patch)).unflatten(2, (rows, self.patch)).permute(0, 2, 4, 1, 3, 5)
        h = self.input(patches.flatten(3).flatten(1, 2)) + self.positions.to(x.dtype)
        for block in self.blocks:
            h = block(h, condition, *context)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)
        out = self.output(torch.addcmul(shift, self.norm(h), 1 + scale))
        out = out.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (rows, columns))
        pixels: Tensor = out.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        return pixels

    def _condition(self, c_noise: Tensor, labels: Tensor | None, given_vector: Tensor | None, draws: Draws) -> Tensor:
        """silu of the sum of the vectors of noise level, label and vector, `(B, width)`."""
        # `c_noise` may be float64 or float32 whatever the dtype of the weights.
        vector: Tensor = self.noise(self.embedding(c_noise).to(self.input.weight.dtype))
        given = check_labels(labels, c_noise, self.num_classes, self.label_dropout > 0)
        check_dropped(draws.dropped, c_noise, self.label_dropout > 0 or self.num_classes is None)
        if self.classes is not None:
            if given and labels is not None:
                vector = vector + self._label_vectors(self.classes, labels, draws)
            else:
                vector = vector + self.classes.weight[-1]
        if self.vector is not None:
            vector = vector + self.vector(given_vector, c_noise, draws)
        return F.silu(vector)

    def _label_vectors(self, classes: nn.Embedding, labels: Tensor, draws: Draws) -> Tensor:
        assert self.num_classes is not None
        if labels.device.type == "cpu" and labels.numel() and int(labels.max()) >= self.num_classes:
            raise ValueError(f"labels must be in [0, {self.num_classes}), got one outside: number the classes from 0")
        vectors = looked_up(classes, labels, self.num_classes)
        without = without_label(labels, self.label_dropout if self.training else 0.0, *draws)
        return vectors if without is None else torch.where(without, classes.weight[-1], vectors)


class _Block(nn.Module):
    """h + a attention(modulate(norm(h))), attention to tokens, then the same with a perceptron; adaLN-zero."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, token_size: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.first = nn.Linear(width, hidden)
        self.dropout = FeatureDropout(dropout) if dropout > 0 else nn.Identity()
        self.second = nn.Linear(hidden, width)
        self.to_tokens = None if token_size is None else _ToTokens(width, heads, token_size)

    def forward(
        self, h: Tensor, condition: Tensor, tokens: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        parts = self.modulation(condition)[:, None].chunk(6, dim=2)
        h = torch.addcmul(h, parts[2], self._attended(torch.addcmul(parts[0], self.norm(h), 1 + parts[1])))
        if self.to_tokens is not None:
            h = h + self.to_tokens(self.norm(h), tokens, counts)
        hidden = F.gelu(self.first(torch.addcmul(parts[3], self.norm(h), 1 + parts[4])), approximate="tanh")
        out: Tensor = torch.addcmul(h, parts[5], self.second(self.dropout(hidden)))
        return out

    def _attended(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out: Tensor = self.project(softmax_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class _ToTokens(nn.Module):
    """Attention of patches `(B, N, width)` to tokens `(B, L, size)`."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(size, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, counts: Tensor | None) -> Tensor:
        out: Tensor = self.project(attend(self.q(x), self.kv(tokens), self.heads, counts))
        return out


def position_embedding(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of the places of patches, `(rows × columns, width)`, row after row.

    The first half of the features is of the column and the second of the row, each as sin(ω_k i), cos(ω_k i) with
    ω_k = 10000^{−k/K} for k = 0, ..., K − 1 and K = width/4, as in the paper's code.

    >>> [round(v, 4) for v in position_embedding(2, 2, 4)[:, 1].tolist()]  # 1 and cos 1, by the column
    [1.0, 0.5403, 1.0, 0.5403]
    """
    count = width // 4
    # Not on the default device, so that a network on the meta device has them too.
    rates = 10000.0 ** (-torch.arange(count, device="cpu", dtype=torch.float64) / count)
    row, column = (torch.arange(n, device="cpu", dtype=torch.float64)[:, None] * rates for n in (rows, columns))
    of_row, of_column = (torch.cat((phase.sin(), phase.cos()), dim=1) for phase in (row, column))
    both = torch.cat((of_column.expand(rows, -1, -1), of_row[:, None].expand(-1, columns, -1)), dim=2)
    return both.flatten(0, 1).to(torch.get_default_dtype())
