"""Data sets into files of the kinds that are read best: an .npz archive, or pictures in a zip or folder."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from scoresde.data.base import Data
from scoresde.data.rows import blocks
from scoresde.extras import need

__all__ = ["check_pictures", "write_folder", "write_npz", "write_zip"]


def write_npz(data: Data, file: BinaryIO) -> None:
    """Write `x_train`, `x_test`, with labels `y_train`, `y_test` and `class_names`, and conditions by their names.

    Those are `condition_vector_train`, `condition_vector_test` and so on, for `condition_keys` of `arrays`. Values of
    at most 256 levels are bytes, of more int32.
    """
    arrays = {"x_train": data.train[:], "x_test": data.test[:]}
    if data.train_labels is not None and data.test_labels is not None:
        arrays |= {"y_train": data.train_labels, "y_test": data.test_labels}
    for part, conditions in (("train", data.train_conditions), ("test", data.test_conditions)):
        arrays |= {f"condition_{name}_{part}": values for name, values in (conditions or {}).items()}
    plain = {name: value.numpy() for name, value in arrays.items()}
    if data.class_names is not None:
        plain["class_names"] = np.array(data.class_names)
    np.savez_compressed(file, **plain)  # type: ignore[arg-type]


def check_pictures(data: Data) -> None:
    """Refuse data that cannot be written as pictures.

    Raises:
        ValueError: Values that are not of 8 bits, or samples that are not (C, H, W) with 1 to 4 channels.
    """
    if data.transform.levels != 256 or len(data.shape) != 3 or data.shape[0] > 4:
        kind = "continuous values" if data.transform.levels is None else f"{data.transform.levels} levels"
        raise ValueError(
            f"{data.name} has samples of shape {data.shape} and {kind}, and pictures are (C, H, W) with 1 to 4 "
            "channels and 256 levels: write an .npz file"
        )


def write_zip(data: Data, file: BinaryIO) -> None:
    """Write PNG pictures in `train/` and `test/` and their labels in `dataset.json`, the format of EDM.

    Raises:
        ValueError: As for `check_pictures`.
    """
    check_pictures(data)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _files(data):
            archive.writestr(name, content)


def write_folder(data: Data, folder: Path) -> None:
    """Write into an empty folder what `write_zip` writes into an archive.

    Raises:
        ValueError: As for `check_pictures`.
    """
    check_pictures(data)
    for part in ("train", "test"):
        (folder / part).mkdir()
    for name, content in _files(data):
        (folder / name).write_bytes(content)


def _files(data: Data) -> Iterator[tuple[str, bytes]]:
    need("writing pictures", "PIL")
    from PIL import Image

    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    labels = []
    for part, values, classes in (
        ("train", data.train, data.train_labels),
        ("test", data.test, data.test_labels),
    ):
        for i, value in enumerate(value for block in blocks(values, 256) for value in block):
            name = f"{part}/img{i:08}.png"
            pixels = value.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            image = Image.fromarray(pixels[..., 0] if data.shape[0] == 1 else pixels, modes[data.shape[0]])
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            yield name, buffer.getvalue()
            if classes is not None:
                labels.append([name, int(classes[i])])
    listed = {"labels": labels or None, "class_names": list(data.class_names or ()) or None}
    yield "dataset.json", json.dumps(listed).encode()
