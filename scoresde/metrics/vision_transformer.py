"""The vision transformer of DINOv2 (Oquab et al. 2023) and of CLIP's image side (Radford et al. 2021).

Both are that of Dosovitskiy et al. (2021) with normalisation first. DINOv2 scales what each layer adds, and may have
registers; CLIP normalises the tokens before the first layer and projects the class token at the end. Parameters have
the names of DINOv2's published files.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TransformerShape", "VisionTransformer"]


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of a vision transformer.

    Attributes:
        width: Features of a token.
        depth: Number of layers.
        heads: Number of attention heads.
        patch: Width of a patch in pixels.
        grid: Patches along an edge of the images that the positions were learned for.
        hidden: Features within the perceptron of a layer.
        registers: Number of tokens without a meaning of their own.
        scaled: Whether what each layer adds is scaled by learned factors.
        normalised: Whether tokens are normalised before the first layer; patches then have no bias.
        out: Features of the projection at the end; None for no projection.
        activation: gelu, or its approximation x σ(1.702 x), with which CLIP was trained.
        eps: Constant of the normalisations.
    """

    width: int
    depth: int
    heads: int
    patch: int
    grid: int
    hidden: int
    registers: int = 0
    scaled: bool = False
    normalised: bool = False
    out: int | None = None
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    eps: float = 1e-6


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # (B, tokens, 3 * width) to three of (B, heads, tokens, width / heads)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(mixed)
        return out


class _Perceptron(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.quick = shape.activation == "quick_gelu"
        self.fc1, self.fc2 = nn.Linear(shape.width, shape.hidden), nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        out: Tensor = self.fc2(x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))
        return out


class _Layer(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(shape.width, shape.eps) for _ in range(2))
        self.attn, self.mlp = _Attention(shape.width, shape.heads), _Perceptron(shape)
        self.ls1, self.ls2 = (_Scale(shape.width) if shape.scaled else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class _Patches(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch, shape.patch, bias=not shape.normalised)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(B, patches, width)` of images `(B, 3, H, W)`."""
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """From normalised square images `(B, 3, H, H)` to the class token's features `(B, out or width)`.

    Args:
        shape: Its sizes.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        self.width = shape.out or shape.width
        self.patch_embed = _Patches(shape)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.grid**2, shape.width))
        if shape.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, shape.registers, shape.width))
        self.norm_pre = nn.LayerNorm(shape.width, shape.eps) if shape.normalised else nn.Identity()
        self.blocks = nn.Sequential(*(_Layer(shape) for _ in range(shape.depth)))
        self.norm = nn.LayerNorm(shape.width, shape.eps)
        self.head = nn.Identity() if shape.out is None else nn.Linear(shape.width, shape.out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x)
        first = self.cls_token.expand(len(x), -1, -1)
        tokens = torch.cat([first, tokens], 1) + self.positions(x.shape[-1] // self.shape.patch)
        if self.shape.registers:
            tokens = torch.cat([tokens[:, :1], self.register_tokens.expand(len(x), -1, -1), tokens[:, 1:]], 1)
        tokens = self.blocks(self.norm_pre(tokens))
        out: Tensor = self.head(self.norm(tokens[:, 0]))
        return out

    def positions(self, grid: int) -> Tensor:
        """Positions `(1, 1 + grid², width)` of the class token and of patches on another grid.

        They are interpolated as DINOv2 was evaluated: by a scale of (grid + 0.1) / learned grid, and for models with
        registers by the sizes themselves, with a filter.
        """
        learned = self.shape.grid
        if grid == learned:
            return self.pos_embed
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = rest.transpose(1, 2).unflatten(2, (learned, learned))
        if self.shape.registers:
            square = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True)
        else:
            scale = (grid + 0.1) / learned
            square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([first, square.flatten(2).transpose(1, 2)], 1)
