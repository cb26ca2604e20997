"""Data from a file or folder whose format is told from its content."""

import inspect
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.data.affine import Standardisation
from scoresde.data.array_data import arrays
from scoresde.data.assembling import Split
from scoresde.data.base import Data
from scoresde.data.cifar_files import cifar
from scoresde.data.folders import image_folder
from scoresde.data.idx_files import idx
from scoresde.data.imagenet_files import imagenet
from scoresde.data.images import SUFFIXES, Fit, Frames, Resample
from scoresde.data.parquet_files import image_columns, parquet
from scoresde.data.places import located
from scoresde.data.rows import InMemory
from scoresde.data.svhn_files import svhn
from scoresde.data.tables import table
from scoresde.data.trees import open_tree, open_zip
from scoresde.data.ways_out import way_out
from scoresde.data.zarr_files import is_zarr
from scoresde.extras import need

__all__ = ["file"]

_TABLES = (".csv", ".tsv", ".txt", ".data", ".dat", ".tab")
_HEADS = (np.lib.format.MAGIC_PREFIX, b"\x89HDF\r\n\x1a\n", b"MATLAB 5.0", b"MATLAB 7.3")
_NAMES = {
    arrays: "npz, npy, mat, hdf5, torch or safetensors",
    cifar: "cifar",
    idx: "idx",
    image_folder: "image_folder",
    imagenet: "imagenet",
    parquet: "parquet",
    svhn: "svhn",
    table: "table",
}


def file(
    path: str,
    labels: bool | None = None,
    test_path: str | None = None,
    test_size: int | float = 0.1,
    split: Split | None = None,
    seed: int = 0,
    key: str | None = None,
    label_key: str | None = None,
    test_key: str | None = None,
    test_label_key: str | None = None,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    shape: Sequence[int] | None = None,
    samples_last: bool | None = None,
    channels_last: bool | None = None,
    levels: int | None = None,
    low: float | None = None,
    high: float | None = None,
    standardise: Standardisation | None = None,
    size: int | Sequence[int] | None = None,
    fit: Fit | None = None,
    resample: Resample | None = None,
    channels: int | None = None,
    background: str | None = None,
    bits: int | None = None,
    frames: Frames | None = None,
    coarse: bool | None = None,
    condition_keys: Mapping[str, str] | None = None,
    test_condition_keys: Mapping[str, str] | None = None,
    condition_columns: Sequence[str] | None = None,
    condition_folder: str | None = None,
    in_memory: InMemory = "auto",
) -> Data:
    """The data in a file, folder or archive, read by what it contains.

    Arrays (.npz, .npy, .mat, HDF5, .pt, .safetensors) are read by `arrays`, pictures by `image_folder` or `parquet`,
    tables by `table`, and CIFAR, MNIST, SVHN and downsampled ImageNet by functions of their own. These say more of the
    arguments; one that is None is left to the function, and one that the function does not have is refused.

    Args:
        path: The file, folder or archive.
        labels: Whether there are labels. None: if they are found.
        test_path: A second file, which holds the test samples.
        test_size: Test samples where they are not apart, as a count (int) or a fraction (float).
        split: Which samples are held out then, "random" or "last".
        seed: Seed of the random split.
        key: Name of an array.
        label_key: Name of an array of classes.
        test_key: Name of an array to test on.
        test_label_key: Name of its classes.
        columns: Columns of a table.
        label_column: Column of classes.
        image_column: Column of pictures.
        shape: Shape of a sample that is stored as a flat row.
        samples_last: Whether the last axis of an array is that of the samples.
        channels_last: Whether the last axis of a sample is that of channels.
        levels: Number of integer values, 0 .. levels-1.
        low: Lower end of the range of the model that the levels are mapped to.
        high: Upper end of that range.
        standardise: What of continuous values has a mean and a standard deviation of its own.
        size: Side, or height and width, to which pictures are resized.
        fit: How, "crop" or "stretch".
        resample: By which filter, "lanczos" or "box".
        channels: Channels of pictures: 3 for RGB, 1 for grey, 4 or 2 with opacity.
        background: Colour that transparent pictures are put on.
        bits: Bits of a channel of pictures, 8 or 16.
        frames: "first" or "refuse", for animations.
        coarse: Whether the classes of CIFAR-100 are its 20 superclasses.
        condition_keys: Names of arrays of conditions, by the names that networks have for them.
        test_condition_keys: Names of those of the test array.
        condition_columns: Columns that make the vector that is a row's condition.
        condition_folder: Folder of pictures of the same names, which are the conditions.
        in_memory: Whether samples are held in memory or read when they are asked for.

    Raises:
        ImportError: A format that needs a package which is not installed.
        ValueError: A format that is not known, with what makes one that is; an argument that does not fit the format;
            or as the function that reads it.
    """
    given = {name: value for name, value in locals().items() if value is not None and name != "path"}
    place = located(path)
    if not (place.is_dir() or place.is_file()):  # a named pipe would be waited for
        raise ValueError(f"there is no file or folder {path}")
    reader = _reader(place)
    takes = inspect.signature(reader).parameters
    defaults = inspect.signature(file).parameters
    same_levels = given.pop("levels", None) if "levels" not in takes else None
    for name, value in list(given.items()):
        if name not in takes:
            if value != defaults[name].default:
                raise ValueError(
                    f"{path} is read as data={_NAMES[reader]}, which has no {name}; it takes "
                    f"{', '.join(n for n in takes if n != 'path')}"
                )
            del given[name]
    if labels is None and "labels" in takes and takes["labels"].annotation == (bool | None):
        given["labels"] = None  # of folders, too, which have none unless told so
    made = reader(str(place), **given)
    if same_levels is not None and made.transform.levels != same_levels:
        raise ValueError(f"{path} has {made.transform.levels} levels, as pictures have, not levels={same_levels}")
    return made


def _reader(path: Path) -> Callable[..., Data]:
    """The function that reads what lies there."""
    if path.is_dir():
        return _of_folder(path)
    with path.open("rb") as stream:
        head = stream.read(1024)
    suffix, packed = path.suffix.lower(), head.startswith(b"\x1f\x8b")
    if re.search(r"(images|labels)[-.]idx\d", path.name):
        return idx
    if path.name.endswith("_32x32.mat"):
        return svhn
    if head.startswith(_HEADS) or suffix in (".mat", ".pt", ".pth", ".ckpt", ".safetensors"):
        return arrays
    if re.fullmatch(r"train_data_batch_\d+\.npz", path.name):
        return imagenet
    if head.startswith(b"PAR1"):
        return _of_parquet(path)
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        archive, members = open_zip(path)
        with archive:
            return arrays if any(member.filename.endswith(".npy") for member in members) else image_folder
    if suffix == ".tar" or path.name.lower().endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
        names = {p.name for p in open_tree(str(path)).files()} if packed else set()
        return cifar if _is_cifar(names) else image_folder
    if suffix in _TABLES or (packed and path.with_suffix("").suffix.lower() in _TABLES):
        return table
    if suffix in SUFFIXES:
        raise ValueError(f"{path} is a single picture: give the folder of all of them")
    raise ValueError(
        f"{path} has no format that is read: "
        f"{way_out(path) or 'numpy.savez(path, x=x, y=y) writes one, of x (N, *shape) and the classes y'}"
    )


def _is_cifar(names: set[str]) -> bool:
    return "data_batch_1" in names or {"train", "test", "meta"} <= names


def _of_folder(path: Path) -> Callable[..., Data]:
    here = [p for p in path.iterdir() if not p.name.startswith(".")]
    names = {p.name for p in here}
    if is_zarr(path):
        return arrays
    below = {q.name for p in here if p.is_dir() and p.name.startswith("cifar") for q in p.iterdir()}
    if (_is_cifar(names) and all(p.is_file() for p in here)) or _is_cifar(below):
        return cifar
    raw = {p.name for p in (path / "raw").iterdir()} if (path / "raw").is_dir() else set()
    if any(re.search(r"images[-.]idx\d", name) for name in names | raw):
        return idx
    if "train_32x32.mat" in names:
        return svhn
    for file in path.rglob("*"):
        if file.suffix.lower() in SUFFIXES:
            return image_folder
        if re.fullmatch(r"train_data_batch_\d+\.npz", file.name):
            return imagenet
        if file.suffix == ".parquet":
            return parquet
    if any(name.endswith(".npy") for name in names):
        return arrays
    unread = next((way for p in (path, *sorted(path.rglob("*"))) if (way := way_out(p)) is not None), None)
    raise ValueError(
        f"{path} has no files of a format that is read: "
        f"{unread or 'give a folder of pictures, or the path of a file in it'}"
    )


def _of_parquet(path: Path) -> Callable[..., Data]:
    need("reading parquet", "pyarrow")
    from pyarrow import parquet as pq

    try:
        schema: Any = pq.ParquetFile(path).schema_arrow
    except Exception:  # of damage, which the reader reports
        return table
    return parquet if image_columns(schema) else table
