"""Weights of published feature networks: where they come from, and how their files are read.

Nothing in a file is run: it is a safetensors file, or one of `torch.save` of which only tensors are read. The layouts
are those of pytorch-fid and torch-fidelity (Inception), of DINOv2 and timm, and of transformers and open_clip (CLIP).
"""

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scoresde.metrics.vision_transformer import TransformerShape
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.tensors import load_tensors
from scoresde.storage.torch_files import read_torch_file

__all__ = ["Published", "clip_shape", "fill", "read_clip", "read_dinov2", "read_inception", "transformer_shape"]

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """A file of weights that its authors offer.

    Attributes:
        feature: Name of the features.
        url: Address of the file.
        file: Name that it has here.
        size: Its size, in words.
        sha256: First digits of its SHA-256; None where the authors state none.
    """

    feature: str
    url: str
    file: str
    size: str
    sha256: str | None = None

    def path(self, weights: str | None, download: bool) -> Path:
        """The file that is there, or that is downloaded.

        Args:
            weights: The user's own file; None for the one in the folder of weights.
            download: Whether it may be downloaded.

        Raises:
            ValueError: No such file, or one that could not be downloaded.
        """
        if weights is not None:
            path = Path(weights).expanduser()
            if not path.is_file():
                raise ValueError(f"weights={weights} is no file: {self._offer(path)}")
            return path
        path = _folder() / self.file
        if path.is_file():
            return path
        if not download:
            raise ValueError(
                f"features by {self.feature} need its weights, which are not in {path.parent}: {self._offer(path)}, or "
                "give weights=FILE, or download=True"
            )
        return self._downloaded(path)

    def _offer(self, path: Path) -> str:
        return f"download {self.url} ({self.size}) and save it as {path}"

    def _downloaded(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(self.url, str(path), hash_prefix=self.sha256)
        except (URLError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"the weights of {self.feature} could not be downloaded ({reason}): {self._offer(path)} on a machine "
                "with a network, or give weights=FILE"
            ) from error
        return path


def _folder() -> Path:
    """The folder of weights: that of `SCORESDE_WEIGHTS`, or `scoresde` in the user's cache."""
    given = os.environ.get("SCORESDE_WEIGHTS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(given) if given else cache / "scoresde").expanduser()


def _read(path: Path) -> Weights:
    """Tensors by name of a safetensors file or of one that `torch.save` wrote.

    Raises:
        CheckpointError: A damaged file, a program, or one that holds anything else.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is a TorchScript archive, a program that is not run here: give the same weights as a "
                    "safetensors file or a state_dict"
                )
    content = read_torch_file(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no tensors by name, expected the state_dict of a network")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def fill(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network, in its dtype.

    Raises:
        CheckpointError: Tensors that are missing, unknown, of another shape or not finite.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name in sorted(wanted.keys() | weights.keys(), key=lambda name: (len(name), name)):
        if name not in weights or name not in wanted:
            what = "is missing" if name in wanted else "is unknown"
            raise CheckpointError(f"{path} is not of a {type(network).__name__}: its tensor {name!r} {what}")
        found, shape = weights[name], wanted[name].shape
        if found.shape != shape:
            raise CheckpointError(f"{path}: tensor {name!r} has shape {tuple(found.shape)}, expected {tuple(shape)}")
        if not bool(found.isfinite().all()):
            raise CheckpointError(f"{path}: tensor {name!r} has values that are not finite")
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in weights.items()}, strict=False)


def read_inception(path: Path) -> Weights:
    """Weights of `FIDInception`, without those of its classifier."""
    return {
        name: value
        for name, value in _read(path).items()
        if not name.endswith("num_batches_tracked") and not name.startswith(("fc.", "AuxLogits."))
    }


def read_dinov2(path: Path) -> Weights:
    """Weights of a `VisionTransformer` of DINOv2, from a file of its authors, of timm or of transformers.

    Raises:
        CheckpointError: A model that is not supported.
    """
    weights = {name: value for name, value in _read(path).items() if not name.endswith("mask_token")}
    if "embeddings.cls_token" in weights:
        weights = _joined(_renamed(weights, "", _DINOV2))
    if "reg_token" in weights:  # of timm, where the class token has its position already
        weights["register_tokens"] = weights.pop("reg_token")
        weights["pos_embed"] = F.pad(weights["pos_embed"], (0, 0, 1, 0))
    if any(".w12." in name for name in weights):
        raise CheckpointError(f"{path} is of DINOv2's giant model, which is not supported: give ViT-S, B or L")
    return weights


_TRANSFORMERS = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"pre_layrnorm\.", "norm_pre."),
    (r"post_layernorm\.", "norm."),
    (r"encoder\.layers\.(\d+)\.layer_norm", r"blocks.\1.norm"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"blocks.\1.attn."),
    (r"encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
)
_DINOV2 = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.register_tokens", "register_tokens"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"layernorm\.", "norm."),
    (r"encoder\.layer\.(\d+)\.norm", r"blocks.\1.norm"),
    (r"encoder\.layer\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.attention\.(output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.([qkv])_proj\.", r"blocks.\1.attn.\2_proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.query\.", r"blocks.\1.attn.q_proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.key\.", r"blocks.\1.attn.k_proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.value\.", r"blocks.\1.attn.v_proj."),
)
_OPEN_CLIP = (
    (r"class_embedding", "cls_token"),
    (r"positional_embedding", "pos_embed"),
    (r"conv1\.", "patch_embed.proj."),
    (r"ln_pre\.", "norm_pre."),
    (r"ln_post\.", "norm."),
    (r"proj$", "head.weight"),
    (r"transformer\.resblocks\.(\d+)\.ln_", r"blocks.\1.norm"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
)


def read_clip(path: Path) -> Weights:
    """Weights of a `VisionTransformer` of the image side of CLIP, from a file of transformers or open_clip.

    Raises:
        CheckpointError: A file of another layout.
    """
    found = _read(path)
    if any(name.startswith("vision_model.") for name in found):
        weights = _renamed(found, "vision_model.", _TRANSFORMERS)
        if "visual_projection.weight" in found:
            weights["head.weight"] = found["visual_projection.weight"]
        weights = _joined(weights)
    elif "visual.class_embedding" in found:
        weights = _renamed(found, "visual.", _OPEN_CLIP)
        if "head.weight" in weights:
            weights["head.weight"] = weights["head.weight"].T
    else:
        raise CheckpointError(
            f"{path} is no CLIP of transformers or open_clip: it has neither vision_model.* nor visual.class_embedding"
        )
    if "head.weight" not in weights:
        raise CheckpointError(f"{path} has no projection of the image features: give the file of the whole CLIP")
    for name, shape in (("cls_token", (1, 1, -1)), ("pos_embed", (1, -1, weights["norm.weight"].numel()))):
        weights[name] = weights[name].reshape(shape)
    return weights


def _renamed(found: Mapping[str, Tensor], prefix: str, rules: tuple[tuple[str, str], ...]) -> Weights:
    weights = {}
    for name, value in found.items():
        if not name.startswith(prefix) or name.endswith("position_ids"):
            continue
        own = name.removeprefix(prefix)
        for pattern, replacement in rules:
            if re.match(pattern, own):
                own = re.sub(pattern, replacement, own, count=1)
                break
        weights[own] = value
    return weights


def _joined(weights: Weights) -> Weights:
    """Queries, keys and values of each layer as one matrix."""
    joined = {name: value for name, value in weights.items() if not re.search(r"\.[qkv]_proj\.", name)}
    for name in [name for name in weights if ".q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if missing := [part for part in parts if part not in weights]:
            raise CheckpointError(f"the file of weights lacks {missing[0]!r}")
        joined[name.replace(".q_proj.", ".qkv.")] = torch.cat([weights[part] for part in parts])
    return joined


def transformer_shape(weights: Mapping[str, Tensor], path: Path, heads: int | None = None) -> TransformerShape:
    """The sizes of the DINOv2 whose weights these are; heads have 64 features unless their number is given.

    Raises:
        CheckpointError: Weights of another network.
    """
    try:
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        places = weights["pos_embed"].shape[1] - 1
        hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} holds no vision transformer of this layout ({error})") from error
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    grid = round(places**0.5)
    count = heads or width // 64
    if grid**2 != places or count < 1 or width % count:
        raise CheckpointError(f"{path}: {places} positions and width {width} are not those of a square image")
    return TransformerShape(
        width, depth, count, patch, grid, hidden,
        registers=weights["register_tokens"].shape[1] if "register_tokens" in weights else 0,
        scaled="blocks.0.ls1.gamma" in weights,
    )  # fmt: skip


def clip_shape(
    weights: Mapping[str, Tensor], path: Path, heads: int | None = None, quick: bool = True
) -> TransformerShape:
    """The sizes of the CLIP whose weights these are.

    Raises:
        CheckpointError: Weights of another network.
    """
    plain = transformer_shape(weights, path, heads)
    return TransformerShape(
        plain.width, plain.depth, plain.heads, plain.patch, plain.grid, plain.hidden,
        normalised=True,
        out=weights["head.weight"].shape[0],
        activation="quick_gelu" if quick else "gelu",
        eps=1e-5,
    )  # fmt: skip
