"""Pictures read by the Hugging Face `datasets` library: hub names, local parquet files, image folders."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import Data, split_indices
from .images import Resample, images_to_tensor
from .transforms import Discrete

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["huggingface"]


def huggingface(
    path: str,
    image_column: str = "image",
    label_column: str | None = None,
    split_train: str = "train",
    split_test: str | None = None,
    test_size: int | float = 0.1,
    size: int | None = None,
    channels: int = 3,
    seed: int = 0,
    resample: Resample = "lanczos",
    config: str | None = None,
    data_files: str | Sequence[str] | Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Data:
    """Pictures from `datasets.load_dataset`, in memory as 8-bit values `(C, H, W)`, 256 levels.

    Local data: `path="parquet"` with `data_files`, or `path="imagefolder"` with `data_dir`.

    Args:
        path: Name on the hub, or one of the library's file formats.
        image_column: Column of pictures: an image feature, or encoded bytes.
        label_column: Column of integer classes; None for no labels.
        split_train: Split to train on.
        split_test: Split to test on; None takes `test_size` samples out of the training split.
        test_size: Test samples, as a count (int) or a fraction (float).
        size: Side to which every picture is centre-cropped and resized; None if all have one size already.
        channels: 3 for RGB, 1 for grey. Transparency is dropped.
        seed: Of the random split.
        resample: Filter used for resizing, "lanczos" or "box".
        config: Name of the data set's configuration, where it has several.
        data_files: Files to read: one, several, or several for each split.
        data_dir: Folder to read.
        revision: Branch, tag or commit on the hub.
        cache_dir: Where the library keeps its files; None for its default.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: A data set or column that is not there, a picture that cannot be read, sizes that differ
            while `size` is None, or labels that are not integers.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("huggingface needs the package datasets: pip install scoresde[huggingface]") from error

    if path in ("pandas", "sql", "spark", "generator"):
        # Readers that unpickle or run what they read; a configuration may come from a stranger.
        raise ValueError(f"path is {path!r}, a reader that can run code: use parquet, imagefolder, json or a name")

    def load(split: str) -> "Dataset":
        try:
            # A split by name is a map-style Dataset, whatever the data set's type.
            return datasets.load_dataset(
                path,
                name=config,
                split=split,
                data_files=_builtin(data_files),
                data_dir=data_dir,
                revision=revision,
                cache_dir=cache_dir,
            )
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"cannot load split {split!r} of data set {path!r}: {reason}") from error

    def read(split: str) -> tuple[Tensor, Tensor | None, int | None]:
        dataset = load(split)
        where = f"split {split!r} of {path}"
        labels, classes = _labels(dataset, label_column, where)
        return _images(dataset, image_column, where, size, channels, resample), labels, classes

    x, y, classes = read(split_train)
    rows = None
    if split_test is None:
        train, test = split_indices(len(x), test_size, seed)
        x_train, x_test = x[train], x[test]
        y_train, y_test = (None, None) if y is None else (y[train], y[test])
        rows = torch.cat((train, test))
    else:
        x_train, y_train = x, y
        x_test, y_test, classes_test = read(split_test)
        classes = None if classes is None or classes_test is None else max(classes, classes_test)
    return Data(
        name=f"{path}/{config}" if config else path,
        train=x_train,
        test=x_test,
        transform=Discrete(256),
        train_labels=y_train,
        test_labels=y_test,
        num_classes=classes,
        rows=rows,
    )


def _images(dataset: "Dataset", column: str, where: str, size: int | None, channels: int, resample: Resample) -> Tensor:
    import datasets

    _need_column(dataset, column, where)
    feature = dataset.features[column]
    if not isinstance(feature, datasets.Image):
        # Text is refused: it would be opened as a path, and the file may come from a stranger.
        encoded = (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", "") in (
            "binary",
            "large_binary",
        )
        if not encoded:
            raise ValueError(f"column {column!r} of {where} holds {feature}, expected images or encoded bytes")
        dataset = dataset.cast_column(column, datasets.Image())
    dataset = dataset.select_columns([column])

    def open_row(i: int) -> Any:
        image = dataset[i][column]
        if image is None:
            raise ValueError("the row is empty")
        return image

    sources = ((f"{i} of {where}", partial(open_row, i)) for i in range(len(dataset)))
    return images_to_tensor(sources, len(dataset), size, channels, resample)


def _labels(dataset: "Dataset", column: str | None, where: str) -> tuple[Tensor | None, int | None]:
    import datasets

    if column is None:
        return None, None
    _need_column(dataset, column, where)
    feature = dataset.features[column]
    values = dataset[column][:]
    if not values or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise ValueError(f"labels in column {column!r} of {where} must be integers, got {feature}")
    classes = feature.num_classes if isinstance(feature, datasets.ClassLabel) else max(values) + 1
    return torch.tensor(values, dtype=torch.int64), classes


def _need_column(dataset: "Dataset", column: str, where: str) -> None:
    if column not in dataset.column_names:
        raise ValueError(f"{where} has no column {column!r}; available: {', '.join(dataset.column_names)}")


def _builtin(value: Any) -> Any:
    """`value` in plain dicts and lists: all that `load_dataset` takes, where configurations bring others."""
    if isinstance(value, Mapping):
        return {str(k): _builtin(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_builtin(v) for v in value]
    return value
