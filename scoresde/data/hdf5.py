"""Arrays of HDF5 files, among them .mat files of version 7.3."""

from pathlib import Path
from typing import Any

import numpy as np

from scoresde.data.array_files import ArrayFile, Header, one_line
from scoresde.data.lazy_arrays import LazyArray, SlicedArray, StoredArray

__all__ = ["HDF5File", "Mat73File"]


class HDF5File(ArrayFile):
    """An HDF5 file; a data set in a group is called by its path, as "train/images".

    Data that a file keeps elsewhere (external links and storage, virtual data sets) are refused: it may come from a
    stranger.

    Args:
        path: The file.

    Raises:
        ImportError: h5py is not installed.
        ValueError: A file that is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import h5py
        except ImportError as error:
            raise ImportError(f"{path} is HDF5, which needs the package h5py: pip install 'scoresde[hdf5]'") from error
        try:
            self._file = h5py.File(path, "r", locking=False)
            self._sets: dict[str, Any] = {}
            self._file.visititems(self._note)  # which follows no links
        except Exception as error:  # whatever a damaged file makes the library raise
            raise ValueError(f"{path} cannot be read as HDF5: {one_line(error)}") from error

    def _note(self, name: str, node: Any) -> None:
        import h5py

        if isinstance(node, h5py.Dataset) and not name.startswith("#"):  # MATLAB keeps cells in #refs#
            self._sets[name] = node

    def names(self) -> list[str]:
        """Paths of the data sets."""
        return list(self._sets)

    def header(self, name: str) -> Header:
        """Shape and type of one data set.

        Raises:
            ValueError: A data set whose values are kept in another file.
        """
        import h5py

        node = self._sets[name]
        if node.external or node.is_virtual:
            raise ValueError(f"{self.where(name)} keeps its values in other files: copy them into one, as by h5repack")
        text = h5py.check_string_dtype(node.dtype)
        if text is not None:
            return Header(node.shape or (), np.dtype(f"S{text.length or 16}"))
        plain = node.shape is not None and node.dtype.names is None and node.dtype.subdtype is None
        return Header(node.shape or (), node.dtype if plain else np.dtype(object))

    def read(self, name: str) -> np.ndarray:
        """One data set; variable-length text as an array of strings."""
        import h5py

        node = self._sets[name]
        try:
            text = h5py.check_string_dtype(node.dtype)
            return np.array(node.asstr()[()], dtype=str) if text is not None else node[()]
        except Exception as error:  # of a damaged chunk, or a filter that is not installed
            raise ValueError(f"{self.where(name)} cannot be read: {one_line(error)}") from error

    def mapped(self, name: str) -> np.ndarray | None:
        """One data set as a view of the file, if it is stored there in one piece."""
        node = self._sets[name]
        offset = node.id.get_offset()
        if offset is None or node.chunks is not None:
            return None
        if offset + node.nbytes > self.path.stat().st_size:
            raise self.refusal(name)
        return np.asarray(np.memmap(self.path, node.dtype, "c", offset, node.shape))

    def lazy(self, name: str) -> LazyArray | None:
        """One data set: where it is stored in one piece from there, else through the library."""
        node, header = self._sets[name], self.header(name)
        if header.dtype.kind not in "uif" or not header.shape:
            return None
        offset = node.id.get_offset()
        if offset is not None and node.chunks is None:
            return StoredArray(self.path, offset, node.shape, node.dtype, self.where(name))
        return SlicedArray(self.path, node.shape, node.dtype, self.where(name), lambda a, b: node[a:b])


class Mat73File(HDF5File):
    """A .mat file of version 7.3, whose axes HDF5 has in the opposite order."""

    samples_last = True

    def header(self, name: str) -> Header:
        """Shape, as MATLAB has it, and type of one variable."""
        header = super().header(name)
        return Header(header.shape[::-1], header.dtype)

    def read(self, name: str) -> np.ndarray:
        """One variable, with its axes as MATLAB has them; characters, which are stored as integers, are text."""
        found = super().read(name).T
        if self._sets[name].attrs.get("MATLAB_class") == b"char":
            letters: np.ndarray = np.vectorize(chr)(found)
            return letters
        return found

    def mapped(self, name: str) -> np.ndarray | None:
        """One variable as a view of the file."""
        view = super().mapped(name)
        return None if view is None else view.T

    def lazy(self, name: str) -> LazyArray | None:
        """None: the axis of samples may be the last."""
        return None
