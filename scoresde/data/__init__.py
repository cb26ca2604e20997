"""Data sets, and the transforms between their values and model space.

The readers of files are imported when they are first used: score models and samplers need transforms alone.
"""

import importlib
from typing import TYPE_CHECKING

from scoresde.data.affine import Affine, Identity, Standardise, continuous
from scoresde.data.base import Data
from scoresde.data.captions import captioned, digit_captions
from scoresde.data.cascades import CascadePart, base_data, super_resolution_data
from scoresde.data.info import DataInfo
from scoresde.data.labels import class_index
from scoresde.data.low_resolution import LowResolution
from scoresde.data.order import batch_indices, epoch_order
from scoresde.data.transforms import Discrete, Transform

if TYPE_CHECKING:
    from scoresde.data.any_file import file
    from scoresde.data.array_data import arrays, npz
    from scoresde.data.bundled import digits, digits_text, mnist5k
    from scoresde.data.cifar_files import cifar
    from scoresde.data.conditional_toys import gaussian_arc, gaussian_arc_log_prob, gaussian_arc_moments
    from scoresde.data.folders import image_folder
    from scoresde.data.hub import huggingface
    from scoresde.data.idx_files import idx
    from scoresde.data.imagenet_files import imagenet
    from scoresde.data.parquet_files import parquet
    from scoresde.data.sequences import heartbeat
    from scoresde.data.svhn_files import svhn
    from scoresde.data.tables import table
    from scoresde.data.text import TextEncoder
    from scoresde.data.toys import (
        checkerboard,
        eight_gaussians,
        eight_gaussians_mixture,
        grid_gaussians,
        grid_gaussians_mixture,
        swiss_roll,
        two_gaussians,
        two_gaussians_mixture,
        two_moons,
    )
    from scoresde.data.webdataset_files import webdataset

__all__ = [
    "Affine",
    "CascadePart",
    "Data",
    "DataInfo",
    "Discrete",
    "Identity",
    "LowResolution",
    "Standardise",
    "TextEncoder",
    "Transform",
    "arrays",
    "base_data",
    "batch_indices",
    "captioned",
    "checkerboard",
    "cifar",
    "class_index",
    "continuous",
    "digit_captions",
    "digits",
    "digits_text",
    "eight_gaussians",
    "eight_gaussians_mixture",
    "epoch_order",
    "file",
    "gaussian_arc",
    "gaussian_arc_log_prob",
    "gaussian_arc_moments",
    "grid_gaussians",
    "grid_gaussians_mixture",
    "heartbeat",
    "huggingface",
    "idx",
    "image_folder",
    "imagenet",
    "mnist5k",
    "npz",
    "parquet",
    "super_resolution_data",
    "svhn",
    "swiss_roll",
    "table",
    "two_gaussians",
    "two_gaussians_mixture",
    "two_moons",
    "webdataset",
]

# By function, the file that it is in. No file may be named like a function: importing it would set that name here.
_READERS = {
    "arrays": "array_data",
    "TextEncoder": "text",
    "checkerboard": "toys",
    "cifar": "cifar_files",
    "digits": "bundled",
    "digits_text": "bundled",
    "eight_gaussians": "toys",
    "eight_gaussians_mixture": "toys",
    "file": "any_file",
    "gaussian_arc": "conditional_toys",
    "gaussian_arc_log_prob": "conditional_toys",
    "gaussian_arc_moments": "conditional_toys",
    "grid_gaussians": "toys",
    "grid_gaussians_mixture": "toys",
    "heartbeat": "sequences",
    "huggingface": "hub",
    "idx": "idx_files",
    "image_folder": "folders",
    "imagenet": "imagenet_files",
    "mnist5k": "bundled",
    "npz": "array_data",
    "parquet": "parquet_files",
    "svhn": "svhn_files",
    "swiss_roll": "toys",
    "table": "tables",
    "two_gaussians": "toys",
    "two_gaussians_mixture": "toys",
    "two_moons": "toys",
    "webdataset": "webdataset_files",
}


def __getattr__(name: str) -> object:
    if name not in _READERS:
        raise AttributeError(f"module 'scoresde.data' has no attribute {name!r}")
    reader = getattr(importlib.import_module(f"scoresde.data.{_READERS[name]}"), name)
    globals()[name] = reader
    return reader


def __dir__() -> list[str]:
    return sorted(__all__)
