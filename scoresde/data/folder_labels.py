"""Classes of the pictures in a folder or archive: by a list, by files beside them, or by their folders."""

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.labels import index_classes
from scoresde.data.trees import Tree, check_inside
from scoresde.storage.bounded import TABLE, DamagedFile, parse_json

__all__ = ["CLASS_SUFFIX", "LIST", "common_depth", "labels_of"]

LIST = "dataset.json"
"""The list of EDM and StyleGAN, `{"labels": [[file, label], ...]}` or null; `class_names` may name the labels."""

CLASS_SUFFIX = ".cls"
"""The suffix of WebDataset for the class of the picture of the same name."""


def common_depth(files: Sequence[PurePosixPath]) -> int:
    """Number of leading folders that the paths of all files share."""
    folders = [file.parts[:-1] for file in (min(files), max(files))]
    return next((i for i, (a, b) in enumerate(zip(*folders, strict=False)) if a != b), min(map(len, folders)))


def labels_of(
    tree: Tree,
    everything: Sequence[PurePosixPath],
    pictures: Sequence[PurePosixPath],
    depth: int | None,
    required: bool,
) -> tuple[Tensor, tuple[str, ...]] | None:
    """Indices of the classes of pictures and the names of the classes, or None where there are none.

    Args:
        tree: The folder or archive.
        everything: All files in it.
        pictures: The pictures.
        depth: The number of folders down to those of the classes; None if it is to be found.
        required: Whether there must be classes.

    Raises:
        ValueError: Pictures without a class if they are required, or a list of classes that names something else.
    """
    lists = [file for file in everything if file.name == LIST]
    if lists:
        return _listed_labels(tree, lists, pictures, required)
    if any(file.suffix.lower() == CLASS_SUFFIX for file in everything):
        return _indexed(_beside(tree, set(everything), pictures))
    depth = _depth_of_classes(pictures) if depth is None else depth
    loose = next((file for file in pictures if len(file.parts) <= depth + 1), None)
    names = [file.parts[depth] for file in pictures]
    if required and loose is not None:
        raise ValueError(f"labels=true takes classes from sub-folders, but {tree.where(loose)} is in none")
    # Folders of thousands of files each, as of FFHQ and EDM, are called by numbers, and are no classes.
    if not required and (loose is not None or len(set(names)) < 2 or all(re.fullmatch(r"\d{5}", n) for n in names)):
        return None
    return _indexed(np.array(names))


def _indexed(labels: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    (indices,), names = index_classes(labels)
    return indices, names


def _depth_of_classes(files: Sequence[PurePosixPath]) -> int:
    """The number of folders around those of classes: none, unless all of these lie in one folder."""
    depth = common_depth(files)
    return depth if all(len(file.parts) > depth + 1 for file in files) else 0


def _listed_labels(
    tree: Tree, lists: Sequence[PurePosixPath], files: Sequence[PurePosixPath], required: bool
) -> tuple[Tensor, tuple[str, ...]] | None:
    """Classes of the pictures as `dataset.json` lists them, by paths that are relative to its own folder."""
    found: dict[PurePosixPath, int] = {}
    names: list[str] | None = None
    for file in lists:
        where = tree.where(file)
        try:
            content = parse_json(tree.read(file), tree.path / file, TABLE)
        except DamagedFile as error:
            raise ValueError(str(error)) from error
        entries: Any = content.get("labels") if isinstance(content, dict) else content
        if entries is None:
            continue
        names = content.get("class_names") if isinstance(content, dict) else None
        if not isinstance(entries, list | dict):
            raise ValueError(f'{where} has no list of labels, expected {{"labels": [["file.png", 3], ...]}} or null')
        for entry in entries.items() if isinstance(entries, dict) else entries:
            if not (isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)):
                raise ValueError(f'{where} has the entry {json.dumps(entry)[:100]}, expected ["file.png", 3]')
            name = file.parent / check_inside(entry[0], where)
            if type(entry[1]) is not int:
                raise ValueError(f"{where} gives {entry[0]} the label {json.dumps(entry[1])[:60]}, expected an integer")
            found[name] = entry[1]
    if not found:
        if required:
            raise ValueError(f"labels=true, but {tree.where(lists[0])} has none: leave it out")
        return None
    for picture in files:
        if picture not in found:
            raise ValueError(f"{tree.where(lists[0])} has no label for {picture}: add it, or give labels=false")
        if not tree.inside(picture):
            raise ValueError(
                f"{tree.where(lists[0])} names {picture}, a link that leads out of {tree.path}: put the file there"
            )
    labels = [found[picture] for picture in files]
    if names is None:
        return _indexed(np.array(labels))
    if not isinstance(names, list) or not 0 <= min(labels) <= max(labels) < len(names):
        raise ValueError(
            f"{tree.where(lists[0])} has class_names that do not name the labels {min(labels)}..{max(labels)}"
        )
    return torch.tensor(labels), tuple(map(str, names))


def _beside(tree: Tree, everything: set[PurePosixPath], files: Sequence[PurePosixPath]) -> np.ndarray:
    """Classes from the text files beside the pictures: integers, or words."""
    found = []
    for picture in files:
        file = picture.with_name(picture.name.partition(".")[0] + CLASS_SUFFIX)
        if file not in everything:
            raise ValueError(
                f"{tree.where(picture)} has no class beside it ({file.name}): add it, or give labels=false"
            )
        found.append(tree.read(file)[:1000].decode("utf-8", "replace").strip())
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in found):
        return np.array([int(text) for text in found])
    return np.array(found)
