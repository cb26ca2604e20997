"""Data sets from files of arrays: .npz, .npy, .mat, HDF5, PyTorch and safetensors files."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from scoresde.data.affine import Standardisation
from scoresde.data.array_files import ArrayFile, read_arrays
from scoresde.data.array_names import Found, find_arrays
from scoresde.data.assembling import Levels, Split, array_data, as_labels
from scoresde.data.base import Data
from scoresde.data.hdf5 import HDF5File, Mat73File
from scoresde.data.labels import listed
from scoresde.data.layout import channels_first, reshaped, samples_first
from scoresde.data.lazy_arrays import LazyArray
from scoresde.data.lazy_layout import arranged
from scoresde.data.matlab import MatFile
from scoresde.data.numpy_files import NpyFile, NpyFolder, NpzFile
from scoresde.data.places import located
from scoresde.data.rows import InMemory, Rows, reads_lazily
from scoresde.data.tensor_files import SafetensorsFile, TorchFile
from scoresde.data.ways_out import way_out
from scoresde.data.zarr_files import ZarrFolder, is_zarr

__all__ = ["array_file", "arrays", "npz"]

_log = logging.getLogger(__name__)

_HEAD = 1000  # samples that stand for all in proposals
_HDF5 = b"\x89HDF\r\n\x1a\n"


def arrays(
    path: str,
    key: str | None = None,
    label_key: str | None = None,
    test_size: int | float = 0.1,
    levels: int | None = None,
    seed: int = 0,
    channels_last: bool | None = None,
    standardise: Standardisation = "auto",
    low: float | None = None,
    high: float | None = None,
    test_key: str | None = None,
    test_label_key: str | None = None,
    test_path: str | None = None,
    labels: bool | None = None,
    shape: Sequence[int] | None = None,
    samples_last: bool | None = None,
    split: Split = "random",
    condition_keys: Mapping[str, str] | None = None,
    test_condition_keys: Mapping[str, str] | None = None,
    in_memory: InMemory = "auto",
) -> Data:
    """An array `(N, *shape)` of a file, with its labels and test samples if the file has them.

    Read are .npz and .npy files and folders of .npy files, .mat files, HDF5 and zarr (with the extras), and what
    `torch.save` and safetensors wrote; which one is told from the content. Pickled objects are never read.

    uint8 arrays are discrete with 256 levels, other integers with the `levels` given; floating-point arrays are
    continuous and standardised by the moments of the training part, unless `levels` says that they hold integers.

    An array that takes more than the limit of memory (`SCORESDE_MEMORY`), or with `in_memory=False` any, stays in its
    file, and samples are read when they are asked for: of .npy files, of .npz archives that are not compressed, of HDF5
    and of zarr. Training gives the same weights, to the bit.

    Args:
        path: The file, or a folder of .npy files.
        key: Name of the array. None: the one with a usual name (`x`, `x_train`, `train_images`, ...) or the only one,
            with labels and test samples by theirs.
        label_key: Name of an array `(N,)` of classes: integers or strings, or rows of zeros and a one. None: without a
            `key` the one with a usual name, with one none.
        test_size: Test samples, as a count (int) or a fraction (float), where there is no test array.
        levels: Number of integer values, 0 .. levels-1.
        seed: Seed of the random split.
        channels_last: Whether the array is `(N, H, W, C)` or `(N, H, W)`, and becomes `(N, C, H, W)`. None: as its
            shape says, where only one reading makes sense.
        standardise: What has a mean and a standard deviation of its own, where the array is continuous: `"all"`,
            `"channel"`, `"value"`, `"none"` or `"auto"`; see `scoresde.data.continuous`. More than 256 levels, which
            need not fill their range as 8-bit pixels do, have one for all, unless it is `"none"`.
        low: Lower end of the range of the model that the levels are mapped to. None: -1, or what standardises them.
        high: Upper end of that range. None: 1, or what standardises the levels.
        test_key: Name of an array `(M, *shape)` to test on, instead of a part of the other.
        test_label_key: Name of its classes `(M,)`.
        test_path: A second file that holds the test samples.
        labels: Whether there are labels. None: if they are found.
        shape: Shape of a sample whose values are stored as a flat row.
        samples_last: Whether the last axis is that of the samples, as in MATLAB. None: in .mat files, as the shape and
            the labels say.
        split: Which samples are held out: `"random"`, or `"last"`, the last ones.
        condition_keys: Names of the arrays of conditions, with one row for each sample, by the names `vector`, `image`,
            `tokens` and `mask` that networks have for them.
        test_condition_keys: Names of the conditions of the test array. None: with `test_path` the same ones.
        in_memory: Whether the samples are held in memory; labels and conditions are.

    Raises:
        ImportError: A file that needs a package which is not installed.
        ValueError: A file or key that is not there, a damaged file, one above the limit of memory, an array of objects
            or of another unusable type or shape, labels that do not fit, or values that fail the checks of `Data`.
    """
    kind = Levels(levels, low, high, standardise)
    file = array_file(path)
    found = _chosen(file, key, label_key, test_key, test_label_key, labels, test_path is not None)
    lasts = samples_last is True
    parts = [_Part(file, found.samples, found.labels, found.class_names, in_memory, lasts)]
    if test_path is not None:
        other = array_file(test_path, "test_path")
        if key is None and test_key is None:
            its = find_arrays(other.names(), test_path)
            parts.append(_Part(other, its.samples, its.labels if found.labels else None, None, in_memory, lasts))
        else:
            own_labels = None if found.labels is None else test_label_key or found.labels
            parts.append(_Part(other, test_key or found.samples, own_labels, None, in_memory, lasts))
    elif found.test is not None:
        parts.append(_Part(file, found.test, found.test_labels, None, in_memory, lasts))
    if found.left:
        _log.warning("%s: %s left out", path, ", ".join(found.left))
    conditions = _conditions(parts, condition_keys, test_condition_keys, channels_last)
    kind = kind.of(parts[0].head, parts[0].where)
    targets = _labels(parts, required=labels is True or label_key is not None)
    values: list[np.ndarray | Rows] = []
    for i, part in enumerate(parts):
        count = None if part.y is None or not targets else len(targets[i])
        last = samples_last if samples_last is not None or part.file.samples_last else False
        axes = partial(_with_axes, shape, channels_last, kind.levels is not None, part.where)
        if isinstance(part.x, LazyArray):
            values.append(arranged(part.x, axes))
        else:
            values.append(axes(samples_first(part.x, last, count, part.where)))
    if len(parts) > 1 and (parts[1].x.dtype.kind not in "uif" or values[1].shape[1:] != values[0].shape[1:]):
        raise ValueError(
            f"{parts[1].where} has shape {parts[1].x.shape} and dtype {parts[1].x.dtype}, expected samples like those "
            f"of {found.samples!r}, shape {parts[0].x.shape} and dtype {parts[0].x.dtype}"
        )
    checked = [as_labels(y, len(x), p.label_where) for y, x, p in zip(targets, values, parts, strict=False)]
    names = parts[0].class_names if checked and checked[0].dtype.kind in "ui" else None
    return array_data(Path(path).stem, values, checked, names, kind, test_size, seed, split, conditions)


def _with_axes(
    shape: Sequence[int] | None, channels_last: bool | None, pictures: bool, where: str, x: np.ndarray
) -> np.ndarray:
    """An array `(N, ...)` as samples whose channels come first."""
    x = channels_first(reshaped(x, shape, where), channels_last, pictures, where)
    if x.ndim < 2:
        hint = "; data.shape=[1] makes a sample of each number" if x.ndim == 1 else ""
        raise ValueError(f"{where} must be (N, *shape), got shape {x.shape}{hint}")
    return x


npz = arrays
"""`arrays` by the name that it had when it read .npz and .npy files alone; run directories have it."""


class _Part:
    """Samples of one part of a data set, and their labels, as their file has them."""

    x: np.ndarray | LazyArray

    def __init__(
        self,
        file: ArrayFile,
        key: str,
        label_key: str | None,
        names_key: str | None,
        in_memory: InMemory,
        samples_last: bool,
    ) -> None:
        lazy = _lazy(file, key, in_memory, samples_last)
        keys = [*([] if lazy is not None else [key]), *(k for k in (label_key, names_key) if k is not None)]
        found = dict(zip(keys, read_arrays(file, keys, in_memory is not True), strict=True))
        self.file, self.where = file, file.where(key)
        self.x = found[key] if lazy is None else lazy
        self.head = self.x if isinstance(self.x, np.ndarray) else _head(self.x)
        self.y = None if label_key is None else found[label_key]
        self.label_where = f"labels {label_key!r} of {file.path}"
        text = None if names_key is None else found[names_key].ravel()
        if text is not None and text.dtype.kind == "S":
            text = np.char.decode(text, "utf-8")
        self.class_names = text.tolist() if text is not None and text.dtype.kind == "U" else None


def _head(array: LazyArray) -> np.ndarray:
    """An array of the same type: the first rows of integers, from which a number of levels is proposed."""
    integers = array.dtype.kind in "iu" and array.dtype != np.uint8
    return array.take(np.arange(min(_HEAD, array.shape[0]) if integers else 0))


def _lazy(file: ArrayFile, key: str, in_memory: InMemory, samples_last: bool) -> LazyArray | None:
    """An array that is to stay in its file; None if it is not, or cannot and need not.

    Raises:
        ValueError: One that is to stay there and cannot, or one that is damaged or holds objects.
    """
    if key not in file.names():
        return None  # which reading it reports
    header = file.header(key)
    if header.dtype.kind == "O":
        raise file.refusal(key)
    if not reads_lazily(in_memory, header.size):
        return None
    found = None if samples_last or header.dtype.kind not in "uif" else file.lazy(key)
    if found is None and in_memory is False:
        raise ValueError(
            f"{file.where(key)} cannot stay in its file: in_memory=false is for numbers in .npy files in the order of "
            "C, .npz archives that are not compressed, HDF5 and zarr, samples first: leave it out, or convert the file"
        )
    return found


def _chosen(
    file: ArrayFile,
    key: str | None,
    label_key: str | None,
    test_key: str | None,
    test_label_key: str | None,
    labels: bool | None,
    own_test: bool,
) -> Found:
    """The arrays that were named, with those that are found by their names where none was."""
    if file.single:
        names = [k for k in (label_key, test_key, test_label_key) if k is not None]
        if names:
            saved = ", ".join(f"{k}=..." for k in [key or "x", *names])
            raise ValueError(
                f"{file.path} holds a single array; save several in an .npz archive: numpy.savez(path, {saved}), or "
                "give the folder of several .npy files"
            )
        if labels:
            raise ValueError(
                f"labels=true, but {file.path} holds a single array: give the folder of several .npy files"
            )
        return Found(file.names()[0])
    if labels is False and label_key is not None:
        raise ValueError(f"labels=false and label_key={label_key}: give one of them")
    if not own_test and (test_label_key is None) != (label_key is None or test_key is None) and (key or test_key):
        raise ValueError(
            f"label_key={label_key}, test_key={test_key} and test_label_key={test_label_key}: a test array has labels "
            "exactly if the other has, and test_label_key needs test_key"
        )
    if key is not None:
        found = Found(key, label_key, test_key, test_label_key)
    else:
        found = find_arrays(file.names(), str(file.path))
        y = label_key or (found.labels if test_key is None or own_test else None)
        if test_key is not None:
            found = Found(found.samples, y, test_key, test_label_key, found.class_names)
        elif label_key is not None and found.test is not None and found.test_labels is None:
            raise ValueError(
                f"{file.path} has a test array {found.test!r}: give its labels, too, by test_key={found.test} and "
                "test_label_key=NAME"
            )
        else:
            found = Found(found.samples, y, found.test, found.test_labels, found.class_names, found.left)
    if labels and found.labels is None:
        raise ValueError(
            f"labels=true, but {file.path} has none by a usual name; available: {listed(file.names())}: say which "
            "by label_key=NAME"
        )
    if labels is False or found.labels is None:
        found = Found(found.samples, None, found.test, None, None, found.left)
    return found


def _conditions(
    parts: Sequence[_Part],
    keys: Mapping[str, str] | None,
    test_keys: Mapping[str, str] | None,
    channels_last: bool | None,
) -> list[dict[str, np.ndarray]]:
    """The conditions of all parts by name, or none."""
    if not keys:
        if test_keys:
            raise ValueError(f"test_condition_keys={dict(test_keys)} needs condition_keys of the training samples")
        return []
    if test_keys and len(parts) == 1:
        raise ValueError(f"test_condition_keys={dict(test_keys)} needs test samples: give test_key or test_path")
    if len(parts) == 2 and not test_keys and parts[0].file.path == parts[1].file.path:
        raise ValueError(
            f"{parts[0].file.path} has a test array: give its conditions, too, by test_condition_keys="
            f"{{{', '.join(f'{name}: NAME' for name in keys)}}}"
        )
    found = []
    for part, named in zip(parts, (keys, test_keys or keys), strict=False):
        own = dict(zip(named, read_arrays(part.file, list(map(str, named.values()))), strict=True))
        if "image" in own:
            pixels, where = own["image"].dtype == np.uint8, part.file.where(named["image"])
            own["image"] = channels_first(own["image"], channels_last, pixels, where)
        found.append(own)
    return found


def _labels(parts: Sequence[_Part], required: bool) -> list[np.ndarray]:
    """Labels of all parts, or none: quantities that nobody asked for are left out, which is said."""
    targets = [part.y for part in parts if part.y is not None]
    for part in parts:
        y = part.y
        if not required and y is not None and y.dtype.kind == "f" and bool((y != y.round()).any()):
            _log.warning("%s are no classes but quantities of dtype %s: left out", part.label_where, y.dtype)
            return []
    return [y.reshape(-1) if y.ndim == 2 and 1 in y.shape else y for y in targets]


def array_file(path: str, argument: str = "path") -> ArrayFile:
    """The file behind a path, opened by what it contains.

    Args:
        path: The path.
        argument: Where it comes from, for messages.

    Raises:
        ImportError: HDF5, while h5py is not installed.
        ValueError: No such file, or one of another kind.
    """
    file = located(path, argument)
    if file.is_dir() and is_zarr(file):
        return ZarrFolder(file)
    if file.is_dir() and any(file.glob("*.npy")):
        return NpyFolder(file)
    if not file.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with file.open("rb") as stream:
            head = stream.read(1024)
        if head.startswith(np.lib.format.MAGIC_PREFIX):
            return NpyFile(file)
        if head.startswith(_HDF5):
            return HDF5File(file)
        if head.startswith(b"MATLAB 7.3") or head[512:520] == _HDF5:
            return Mat73File(file)
        if file.suffix.lower() in (".pt", ".pth", ".ckpt"):
            return TorchFile(file)
        if head.startswith(b"PK"):
            return NpzFile(file)
        if head.startswith(b"MATLAB 5.0") or file.suffix.lower() == ".mat":
            return MatFile(file)
        if file.suffix.lower() == ".safetensors":
            return SafetensorsFile(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    raise ValueError(
        f"{path} is not an .npz archive or .npy file that numpy can read without pickle, nor a .mat, HDF5, PyTorch or "
        f"safetensors file: {way_out(path) or 'numpy.savez(path, x=x, y=y) writes one'}"
    )
