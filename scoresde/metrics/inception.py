"""The Inception network of the Fréchet inception distance: that of TensorFlow's file of 5 December 2015.

It is Inception-v3 (Szegedy et al. 2016) with three deviations, without which its published weights give other features:
average pooling does not count the padding, the last block pools by the maximum, and the classifier, which is not used
here, has 1008 classes. Parameters have the names of the published file `pt_inception-2015-12-05-6726825d.pth`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FIDInception"]

_Size = int | tuple[int, int]
# Channels, size of the kernel, and stride of a convolution.
_Layer = tuple[int, _Size, int]
_Pool = Literal["average", "maximum"]


class _Convolution(nn.Module):
    """A convolution without a bias, batch normalisation and a rectifier; without a stride it keeps the size."""

    def __init__(self, channels: int, out: int, size: _Size, stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        sizes = (size, size) if isinstance(size, int) else size
        padding = (sizes[0] // 2, sizes[1] // 2) if pad and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels, out, sizes, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Branches of convolutions beside each other, with a pooled one at the end; their channels are joined.

    Args:
        channels: Channels of the input.
        branches: Layers of each branch by its name.
        pooled: Channels of the branch of a pooled input; None to pool by the maximum with stride 2, without channels.
        pool: How the input of that branch is pooled.
        forked: Whether the last layer of branches of more than one is two, (1, 3) and (3, 1), of the same input.
    """

    def __init__(
        self,
        channels: int,
        branches: Mapping[str, Sequence[_Layer]],
        pooled: int | None = None,
        pool: _Pool = "average",
        forked: bool = False,
    ) -> None:
        super().__init__()
        self.pool, self.halves = pool, pooled is None
        self.branches: list[list[list[str]]] = []
        for name, layers in branches.items():
            self.branches.append(self._branch(name, channels, layers, forked and len(layers) > 1))
        if pooled is not None:
            self.branch_pool = _Convolution(channels, pooled, 1)

    def _branch(self, name: str, channels: int, layers: Sequence[_Layer], forked: bool) -> list[list[str]]:
        """Names of the convolutions of a branch; those that have the same input stand together."""
        names: list[list[str]] = []
        for k, (out, size, stride) in enumerate(layers, 1):
            own = name if len(layers) == 1 else f"{name}_{k}"
            last = forked and k == len(layers)
            parts: dict[str, _Size] = {f"{own}a": (1, 3), f"{own}b": (3, 1)} if last else {own: size}
            for part, its_size in parts.items():
                self.add_module(part, _Convolution(channels, out, its_size, stride))
            names.append(list(parts))
            channels = out
        return names

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for names in self.branches:
            y = [x]
            for parts in names:
                y = [self.get_submodule(part)(y[0]) for part in parts]
            outputs += y
        return torch.cat([*outputs, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.halves:
            return F.max_pool2d(x, 3, 2)
        if self.pool == "maximum":
            pooled: Tensor = self.branch_pool(F.max_pool2d(x, 3, 1, 1))
        else:
            pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return pooled


def _small(channels: int, pooled: int) -> _Block:
    """A block at 35 × 35."""
    branches: dict[str, list[_Layer]] = {
        "branch1x1": [(64, 1, 1)],
        "branch5x5": [(48, 1, 1), (64, 5, 1)],
        "branch3x3dbl": [(64, 1, 1), (96, 3, 1), (96, 3, 1)],
    }
    return _Block(channels, branches, pooled)


def _factorised(width: int) -> _Block:
    """A block at 17 × 17, in which 7 × 7 convolutions are factors of 1 × 7 and 7 × 1."""
    across, down = (1, 7), (7, 1)
    branches: dict[str, list[_Layer]] = {
        "branch1x1": [(192, 1, 1)],
        "branch7x7": [(width, 1, 1), (width, across, 1), (192, down, 1)],
        "branch7x7dbl": [(width, 1, 1), (width, down, 1), (width, across, 1), (width, down, 1), (192, across, 1)],
    }
    return _Block(768, branches, 192)


def _wide(channels: int, pool: _Pool) -> _Block:
    """A block at 8 × 8, whose branches fork."""
    branches: dict[str, list[_Layer]] = {
        "branch1x1": [(320, 1, 1)],
        "branch3x3": [(384, 1, 1), (384, 3, 1)],
        "branch3x3dbl": [(448, 1, 1), (384, 3, 1), (384, 3, 1)],
    }
    return _Block(channels, branches, 192, pool, forked=True)


class FIDInception(nn.Module):
    """From images `(B, 3, 299, 299)` in [−1, 1] to features `(B, 2048)`: the last block's output in the mean."""

    width = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _small(192, 32), _small(256, 64), _small(288, 64)
        reduced: dict[str, list[_Layer]] = {
            "branch3x3": [(384, 3, 2)],
            "branch3x3dbl": [(64, 1, 1), (96, 3, 1), (96, 3, 2)],
        }
        self.Mixed_6a = _Block(288, reduced)
        self.Mixed_6b, self.Mixed_6c = _factorised(128), _factorised(160)
        self.Mixed_6d, self.Mixed_6e = _factorised(160), _factorised(192)
        reduced = {
            "branch3x3": [(192, 1, 1), (320, 3, 2)],
            "branch7x7x3": [(192, 1, 1), (192, (1, 7), 1), (192, (7, 1), 1), (192, 3, 2)],
        }
        self.Mixed_7a = _Block(768, reduced)
        self.Mixed_7b, self.Mixed_7c = _wide(1280, "average"), _wide(2048, "maximum")

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))
