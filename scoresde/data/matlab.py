"""Arrays of MATLAB files: .mat of version 4 and 5, and of version 7.3, which is HDF5."""

from pathlib import Path
from typing import Any

import numpy as np

from scoresde.data.array_files import ArrayFile, Header, one_line

__all__ = ["MatFile"]

_TYPES = {
    **{name: np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    "double": np.dtype(np.float64),
    "single": np.dtype(np.float32),
    "logical": np.dtype(np.bool_),
    "char": np.dtype("U1"),
}


class MatFile(ArrayFile):
    """A .mat file of version 4 or 5, read by `scipy.io`.

    Arrays have the type that they have in MATLAB, which stores doubles that are integers as integers.
    """

    samples_last = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        from scipy.io import whosmat

        try:
            listed = whosmat(str(path))
        except Exception as error:  # whatever a damaged file makes scipy raise
            raise ValueError(f"{path} cannot be read as a .mat file: {one_line(error)}") from error
        self._headers = {
            name: Header(tuple(map(int, shape)), _TYPES.get(kind, np.dtype(object))) for name, shape, kind in listed
        }
        self._kinds = {name: kind for name, _, kind in listed}

    def names(self) -> list[str]:
        """Names of the variables."""
        return list(self._headers)

    def header(self, name: str) -> Header:
        """Shape and type of one variable; a cell array may be one of text, which takes little."""
        header = self._headers[name]
        return Header(header.shape, np.dtype("U8")) if self._kinds[name] == "cell" else header

    def read(self, name: str) -> np.ndarray:
        """One variable; a cell array of text as an array of strings.

        Raises:
            ValueError: A structure, a sparse matrix or another object, or a damaged file.
        """
        from scipy.io import loadmat

        try:
            found: Any = loadmat(str(self.path), variable_names=[name], mat_dtype=True)[name]
        except Exception as error:  # whatever a damaged file makes scipy raise
            raise self.refusal(name) from error
        if isinstance(found, np.ndarray) and found.dtype == object:
            texts = [str(cell.item()) if _is_text(cell) else None for cell in found.ravel()]
            if None not in texts:
                return np.array(texts).reshape(found.shape)
        if not isinstance(found, np.ndarray) or found.dtype.hasobject:
            raise ValueError(
                f"{self.where(name)} is a {self._kinds[name]}, expected an array of numbers: save its parts as "
                "variables of their own"
            )
        return found


def _is_text(cell: Any) -> bool:
    return isinstance(cell, np.ndarray) and cell.size == 1 and cell.dtype.kind == "U"
