"""Taking the tensors of a checkpoint one by one, so that none is missing, left over or of another shape; and back."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.networks import UNet

__all__ = ["Places", "Renaming"]

_ADVICE = "it is of another architecture than the configuration"


class Renaming:
    """The state dict of a U-Net in the making, from the tensors of a file.

    Args:
        options: Arguments of `UNet`.
        state: Tensors by the file's names.
        ignored: Names of tensors that are not of the network.

    Attributes:
        network: The U-Net on no device, for its structure.
        result: Copies of the tensors in float32, or float64 as they were, by the U-Net's names.
    """

    def __init__(self, options: Mapping[str, Any], state: Mapping[str, Tensor], ignored: tuple[str, ...] = ()) -> None:
        with torch.device("meta"):
            self.network = UNet(**options)
        self.shapes = {name: tuple(value.shape) for name, value in self.network.state_dict().items()}
        self.state = {name: value for name, value in state.items() if not name.endswith(ignored)}
        self.result: dict[str, Tensor] = {}

    def take(self, theirs: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the file, which has this shape.

        Raises:
            ValueError: It is missing, of another shape, or of integers.
        """
        if theirs not in self.state:
            raise ValueError(f"the file has no tensor {theirs}, expected one of shape {shape}: {_ADVICE}")
        value = self.state.pop(theirs)
        if tuple(value.shape) != shape:
            raise ValueError(f"{theirs} has shape {tuple(value.shape)} in the file, expected {shape}: {_ADVICE}")
        if not value.is_floating_point():
            raise ValueError(f"{theirs} has dtype {str(value.dtype)[6:]} in the file, expected floating point")
        return value.detach()

    def put(self, ours: str, value: Tensor) -> None:
        """A tensor of the U-Net; what is kept is a copy."""
        dtype = value.dtype if value.dtype == torch.float64 else torch.float32
        self.result[ours] = value.reshape(self.shapes[ours]).to(dtype, copy=True).contiguous()

    def one(self, ours: str, theirs: str) -> None:
        """A tensor as it is."""
        self.put(ours, self.take(theirs, self.shapes[ours]))

    def layer(self, ours: str, theirs: str) -> None:
        """Weight and bias as they are."""
        self.one(f"{ours}.weight", f"{theirs}.weight")
        self.one(f"{ours}.bias", f"{theirs}.bias")

    def has(self, ours: str) -> bool:
        """Whether the U-Net has a tensor, or a layer with weights, of this name."""
        return ours in self.shapes or f"{ours}.weight" in self.shapes

    def heads(self, attention: str) -> int:
        """The number of heads of an attention module of the U-Net."""
        return int(self.network.get_submodule(attention).heads)  # type: ignore[arg-type]

    def finished(self) -> dict[str, Tensor]:
        """The state dict, once every tensor of the file is in it.

        Raises:
            ValueError: Tensors are left over.
        """
        for name, value in self.state.items():
            raise ValueError(
                f"the file has a tensor {name} of shape {tuple(value.shape)}, expected none of that name: {_ADVICE}"
            )
        assert self.result.keys() == self.shapes.keys()
        return {name: self.result[name] for name in self.shapes}


class Places(Renaming):
    """The reverse of a `Renaming`: the tensors of a file from those of the U-Net.

    The numbers of the file are counted, and the renaming is done with their numbers in their place, so that it shows
    where each of them goes. Nothing else says how the file is written, which therefore is what is read.

    Args:
        options: Arguments of `UNet`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options, {})
        self._count = 0
        self._files: dict[str, tuple[int, ...]] = {}

    def take(self, theirs: str, shape: tuple[int, ...]) -> Tensor:
        places = torch.arange(self._count, self._count + math.prod(shape)).reshape(shape)
        self._count += places.numel()
        self._files[theirs] = shape
        return places

    def put(self, ours: str, value: Tensor) -> None:
        self.result[ours] = value.flatten()

    def file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the file, of which the renaming makes the state dict `state` of the U-Net."""
        places = self.finished()
        numbers = torch.cat([state[name].flatten() for name in places])
        order = torch.cat(list(places.values()))
        assert torch.equal(order.bincount(minlength=self._count), torch.ones(self._count, dtype=torch.int64))
        flat = torch.empty_like(numbers)
        flat[order] = numbers
        pieces = flat.split([math.prod(shape) for shape in self._files.values()])
        return {
            name: piece.reshape(shape).clone() for (name, shape), piece in zip(self._files.items(), pieces, strict=True)
        }
