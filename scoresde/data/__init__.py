"""Data sets in memory, and the transforms between their values and model space."""

from .any_file import file
from .array_data import arrays, npz
from .base import Data
from .bundled import digits, mnist5k
from .cifar import cifar
from .folders import image_folder
from .hub import huggingface
from .idx import idx
from .imagenet import imagenet
from .info import DataInfo
from .labels import class_index
from .order import batch_indices, epoch_order
from .parquet import parquet
from .svhn import svhn
from .tables import table
from .toys import (
    checkerboard,
    eight_gaussians,
    eight_gaussians_mixture,
    grid_gaussians,
    grid_gaussians_mixture,
    swiss_roll,
    two_moons,
)
from .transforms import Affine, Discrete, Identity, Standardise, Transform, continuous

__all__ = [
    "Affine",
    "Data",
    "DataInfo",
    "Discrete",
    "Identity",
    "Standardise",
    "Transform",
    "arrays",
    "batch_indices",
    "checkerboard",
    "cifar",
    "class_index",
    "continuous",
    "digits",
    "eight_gaussians",
    "eight_gaussians_mixture",
    "epoch_order",
    "file",
    "grid_gaussians",
    "grid_gaussians_mixture",
    "huggingface",
    "idx",
    "image_folder",
    "imagenet",
    "mnist5k",
    "npz",
    "parquet",
    "svhn",
    "swiss_roll",
    "table",
    "two_moons",
]
