"""Taking the tensors of a checkpoint one by one, so that none is missing, left over or of another shape."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.networks import UNet

__all__ = ["Renaming"]

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
            ValueError: It is missing or of another shape.
        """
        if theirs not in self.state:
            raise ValueError(f"the file has no tensor {theirs}, expected one of shape {shape}: {_ADVICE}")
        value = self.state.pop(theirs)
        if tuple(value.shape) != shape:
            raise ValueError(f"{theirs} has shape {tuple(value.shape)} in the file, expected {shape}: {_ADVICE}")
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
