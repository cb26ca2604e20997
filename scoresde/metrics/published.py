"""Features of images by published networks: those of the Fréchet inception distance, of DINOv2 and of CLIP.

Each is a feature map for every metric of the package, from images with values 0 to 255, `(B, C, H, W)` of one or three
channels, to features `(B, F)`:

    frechet_distance(samples, data, InceptionFeatures(weights="pt_inception-2015-12-05-6726825d.pth"))

Weights are read from a file, see `scoresde.metrics.extractor_weights`. Figures with other weights, another resizing or
another number of samples are not comparable.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.metrics.extractor_weights import (
    Published,
    clip_shape,
    fill,
    read_clip,
    read_dinov2,
    read_inception,
    transformer_shape,
)
from scoresde.metrics.inception import FIDInception
from scoresde.metrics.resizing import resized_bicubic, resized_pytorch, resized_tensorflow
from scoresde.metrics.vision_transformer import TransformerShape, VisionTransformer
from scoresde.storage.digests import digest

__all__ = ["CLIPFeatures", "DINOv2Features", "InceptionFeatures", "PublishedFeatures"]

_INCEPTION = Published(
    "inception",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
    "91 MB",
    "6726825d",
)
_DINOV2 = Published(
    "dinov2",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "dinov2_vitl14_pretrain.pth",
    "1.2 GB",
)
_CLIP = Published(
    "clip",
    "https://huggingface.co/openai/clip-vit-large-patch14/resolve/main/model.safetensors",
    "clip-vit-large-patch14.safetensors",
    "1.7 GB",
)


class PublishedFeatures(ABC):
    """A network with its published weights, as a feature map.

    Args:
        network: The network.
        batch_size: Images for which it is called at once.
    """

    name: str

    def __init__(self, network: FIDInception | VisionTransformer, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.network: nn.Module = network.eval().requires_grad_(False)
        self.batch_size = batch_size
        self.width: int = network.width
        self.digest = digest(network.state_dict())[:8]

    @abstractmethod
    def prepared(self, images: Tensor) -> Tensor:
        """What the network is given for images `(B, 3, H, W)` with values 0 to 255, in float32."""

    def to(self, device: torch.device | str) -> "PublishedFeatures":
        """The same, computed on a device."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features `(B, F)` of images `(B, C, H, W)` with values 0 to 255 and one or three channels.

        Raises:
            ValueError: Other shapes or values.
        """
        x = torch.as_tensor(images)
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"features by {self.name} are of images (B, C, H, W) with 1 or 3 channels, got shape {tuple(x.shape)}"
            )
        if len(x) and not 0 <= float(x.min()) <= float(x.max()) <= 255:
            raise ValueError(
                f"images for {self.name} have values {float(x.min()):.4g} to {float(x.max()):.4g}, expected 0 to 255"
            )
        device = next(self.network.parameters()).device
        parts = []
        for part in torch.split(x, self.batch_size):
            pixels = part.to(device, torch.float32).expand(-1, 3, -1, -1)
            parts.append(self.network(self.prepared(pixels)))
        return torch.cat(parts) if parts else x.new_zeros((0, self.width), dtype=torch.float32)


@checked
class InceptionFeatures(PublishedFeatures):
    """Features of the Fréchet inception distance (Heusel et al. 2017) and of KID (Bińkowski et al. 2018), `(B, 2048)`.

    Args:
        weights: File of the weights; the one in the folder of weights if not given.
        resize: tensorflow, by which the reference statistics of score_sde and EDM were made, with values (p − 128)/128;
            or pytorch, as pytorch-fid does, with values 2 p/255 − 1.
        download: Whether weights that are not there may be downloaded.
        batch_size: Images for which the network is called at once.

    Raises:
        ValueError: No weights, or a file of others.
    """

    name = "inception"

    def __init__(
        self,
        weights: str | None = None,
        resize: Literal["tensorflow", "pytorch"] = "tensorflow",
        download: bool = False,
        batch_size: int = 32,
    ) -> None:
        if resize not in ("tensorflow", "pytorch"):
            raise ValueError(f"resize is {resize!r}, expected tensorflow or pytorch")
        path, network = _INCEPTION.path(weights, download), FIDInception()
        fill(network, read_inception(path), path)
        super().__init__(network, batch_size)
        self.resize = resize

    def prepared(self, images: Tensor) -> Tensor:
        if self.resize == "tensorflow":
            return (resized_tensorflow(images, 299) - 128) / 128
        return 2 * resized_pytorch(images / 255, 299) - 1

    def __repr__(self) -> str:
        return f"inception(resize={self.resize}, weights={self.digest})"


def _normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    centre, scale = (images.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return (images / 255 - centre) / scale


@checked
class DINOv2Features(PublishedFeatures):
    """The class token of DINOv2 (Oquab et al. 2023), whose Fréchet distance Stein et al. (2023) prefer.

    Images are resized to 224 × 224 by bicubic interpolation with a filter, and normalised as ImageNet. The size of the
    model is that of the weights: ViT-S, B or L; published figures are with ViT-L/14.

    Args:
        weights: File of the weights; the one in the folder of weights if not given.
        download: Whether weights that are not there may be downloaded.
        batch_size: Images for which the network is called at once.
        heads: Number of attention heads; one for 64 features if not given.

    Raises:
        ValueError: No weights, or a file of others.
    """

    name = "dinov2"

    def __init__(
        self, weights: str | None = None, download: bool = False, batch_size: int = 32, heads: int | None = None
    ) -> None:
        path = _DINOV2.path(weights, download)
        found = read_dinov2(path)
        super().__init__(_transformer(transformer_shape(found, path, heads), found, path), batch_size)

    def prepared(self, images: Tensor) -> Tensor:
        return _normalised(resized_bicubic(images, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def __repr__(self) -> str:
        return f"dinov2(weights={self.digest}{_told(self.network)})"


@checked
class CLIPFeatures(PublishedFeatures):
    """The image embedding of CLIP (Radford et al. 2021), by which Kynkäänniemi et al. (2023) compare.

    Images are resized by bicubic interpolation to the size that the weights are for. The embedding is not normalised.

    Args:
        weights: File of the weights, of transformers or open_clip; the one in the folder of weights if not given.
        download: Whether weights that are not there may be downloaded.
        batch_size: Images for which the network is called at once.
        heads: Number of attention heads; one for 64 features if not given.
        quick_gelu: Whether the activation is x σ(1.702 x), as in OpenAI's weights; those of LAION have gelu.

    Raises:
        ValueError: No weights, or a file of others.
    """

    name = "clip"

    def __init__(
        self,
        weights: str | None = None,
        download: bool = False,
        batch_size: int = 32,
        heads: int | None = None,
        quick_gelu: bool = True,
    ) -> None:
        path = _CLIP.path(weights, download)
        found = read_clip(path)
        shape = clip_shape(found, path, heads, quick_gelu)
        super().__init__(_transformer(shape, found, path), batch_size)
        self.size, self.quick_gelu = shape.grid * shape.patch, quick_gelu

    def prepared(self, images: Tensor) -> Tensor:
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        return _normalised(resized_bicubic(images, self.size), mean, std)

    def __repr__(self) -> str:
        return f"clip(weights={self.digest}{'' if self.quick_gelu else ', gelu'}{_told(self.network)})"


def _told(network: nn.Module) -> str:
    """The number of attention heads, where it is not that of the published models: weights do not tell it."""
    assert isinstance(network, VisionTransformer)
    shape = network.shape
    return "" if shape.heads == shape.width // 64 else f", heads={shape.heads}"


def _transformer(shape: TransformerShape, weights: dict[str, Tensor], path: Path) -> VisionTransformer:
    network = VisionTransformer(shape)
    fill(network, weights, path)
    return network
