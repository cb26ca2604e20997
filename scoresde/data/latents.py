"""Data encoded once by a function of one's own, to train on its latents, and samples of these decoded.

Rombach et al. 2022 train a diffusion model on the latents of an autoencoder. Here that is any function of a batch: the
latents are written to arrays beside each other, a batch at a time, so that data that do not fit into memory are encoded
in the memory of a batch, and an interrupted encoding goes on after the last batch that was written.

References:
    Rombach et al. 2022, High-resolution image synthesis with latent diffusion models, https://arxiv.org/abs/2112.10752
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from scoresde.arguments import shown
from scoresde.data.base import Data
from scoresde.data.rows import Values
from scoresde.progress import Progress
from scoresde.storage.files import write_text

__all__ = ["decoded", "encode_data"]

_STATE = "latents.json"
_SPLITS = ("train", "test")

Function = Callable[[Tensor], Tensor]
"""A function of a batch, `(B, ...)` to `(B, ...)`; of a module in evaluation mode."""


def encode_data(
    data: Data,
    encoder: Function,
    folder: str | Path,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    name: str | None = None,
    progress: bool = True,
) -> Path:
    """Write the latents of a data set, with its labels and its split, as arrays that `scoresde.data.arrays` reads.

    Args:
        data: The data.
        encoder: Maps samples in model space, float32 `(B, *shape)`, to latents `(B, ...)`; a pixel is the centre of its
            cell. A module is put into evaluation mode, and on the device.
        folder: Where `x_train.npy`, `x_test.npy` and the labels are written. A folder with a part of the same latents
            is completed.
        batch_size: Samples that are encoded at once.
        device: Where they are encoded.
        name: What the encoder is called, so that latents of another are not continued; its own name if not given.
        progress: Show progress.

    Returns:
        The folder.

    Raises:
        ValueError: Latents that are not floating-point numbers, finite and as many as samples; or a folder with
            something else.
    """
    place = Path(folder).expanduser()
    own = {"data": data.fingerprint(), "encoder": name or _name_of(encoder)}
    done = _known(place, own)
    if done is None:
        return place
    place.mkdir(parents=True, exist_ok=True)
    if isinstance(encoder, nn.Module):
        encoder.to(device).eval()
    total = sum(len(getattr(data, split)) for split in _SPLITS)
    with Progress(total, "encoding", "sample", sum(done.values()), progress) as bar, torch.inference_mode():
        for split in _SPLITS:
            _encode_split(getattr(data, split), data, encoder, place, split, batch_size, device, done, own, bar)
    for split in _SPLITS:
        labels = getattr(data, f"{split}_labels")
        if labels is not None:
            np.save(place / f"y_{split}.npy", labels.numpy())
    if data.class_names is not None and data.train_labels is not None:
        np.save(place / "class_names.npy", np.array(data.class_names))
    for split in _SPLITS:  # last, so that arrays that are there are whole
        (place / f"x_{split}.npy.partial").replace(place / f"x_{split}.npy")
    write_text(place / _STATE, json.dumps({**own, "finished": True}))
    return place


def decoded(latents: Values, decoder: Function, batch_size: int = 64, device: torch.device | str = "cpu") -> Tensor:
    """What a decoder makes of latents `(N, ...)`, such as samples of a run on latents, `(N, ...)` on the CPU.

    Args:
        latents: The latents.
        decoder: Maps latents `(B, ...)` to what they are of. A module is put into evaluation mode, and on the device.
        batch_size: Number that is decoded at once.
        device: Where they are decoded.

    Raises:
        ValueError: A decoder whose result is not as many as its latents.
    """
    if isinstance(decoder, nn.Module):
        decoder.to(device).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(latents), batch_size):
            part = latents[start : start + batch_size]
            parts.append(_result(decoder, part.to(device), "decoder"))
    return torch.cat(parts).clone()


def _encode_split(
    values: Values,
    data: Data,
    encoder: Function,
    place: Path,
    split: str,
    batch_size: int,
    device: torch.device | str,
    done: dict[str, int],
    own: dict[str, Any],
    bar: Progress,
) -> None:
    """Encode what of a split was not encoded yet, and note after each batch how far it is."""
    path = place / f"x_{split}.npy.partial"
    with path.open("r+b" if done[split] else "w+b") as stream:
        for start in range(done[split], len(values), batch_size):
            raw = values[start : start + batch_size]
            latents = _result(encoder, data.transform.encode(raw).to(device), "encoder").float().numpy()
            if not np.isfinite(latents).all():
                raise ValueError(f"the encoder makes NaN or infinite latents of {split} samples from {start} on")
            _place(stream, latents, start, len(values), path)
            done[split] = start + len(raw)
            write_text(place / _STATE, json.dumps({**own, "done": done}))
            bar.update(len(raw))


def _place(stream: BinaryIO, latents: np.ndarray, start: int, count: int, path: Path) -> None:
    """Write latents at their place in an array of `count` of them."""
    stream.seek(0)
    if start == 0:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (count, *latents.shape[1:])}
        np.lib.format.write_array_header_1_0(stream, shape)
    else:
        np.lib.format.read_magic(stream)
        known = np.lib.format.read_array_header_1_0(stream)[0]
        if known != (count, *latents.shape[1:]):
            raise ValueError(f"the encoder makes latents of shape {latents.shape[1:]}, and {path} has {known[1:]}")
    stream.seek(start * latents[0].nbytes, os.SEEK_CUR)
    stream.write(np.ascontiguousarray(latents, "<f4").tobytes())
    stream.flush()
    os.fsync(stream.fileno())  # before the note that they are there


def _known(place: Path, own: dict[str, Any]) -> dict[str, int] | None:
    """How many samples of each split are encoded in a folder; None if all of them are.

    Raises:
        ValueError: A folder with something else, or with latents of other data or of another encoder.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return dict.fromkeys(_SPLITS, 0)
    try:
        known = json.loads((place / _STATE).read_bytes())
        done = None if known.get("finished") else {split: int(known["done"][split]) for split in _SPLITS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{place} has something else than latents to complete: give another folder") from None
    for key, what in (("data", "other data"), ("encoder", f"the encoder {known.get('encoder')}")):
        if known.get(key) != own[key]:
            raise ValueError(f"{place} has latents of {what}: give another folder, or remove it")
    return done


def _result(function: Function, batch: Tensor, what: str) -> Tensor:
    made = function(batch)
    if not isinstance(made, Tensor) or not made.is_floating_point() or made.ndim < 2 or len(made) != len(batch):
        got = f"{tuple(made.shape)} of {made.dtype}" if isinstance(made, Tensor) else shown(made)
        raise ValueError(
            f"the {what} makes {got} of a batch of {len(batch)}, expected floating point ({len(batch)}, ...)"
        )
    return made.cpu()


def _name_of(encoder: Any) -> str:
    kind = encoder if hasattr(encoder, "__qualname__") else type(encoder)
    return f"{kind.__module__}.{kind.__qualname__}"
