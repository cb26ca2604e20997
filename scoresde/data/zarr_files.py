"""Arrays of zarr: folders of chunks, of format 2 and 3."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.data.array_files import ArrayFile, Header, one_line
from scoresde.data.lazy_arrays import LazyArray, SlicedArray

__all__ = ["ZarrFolder", "is_zarr"]

# Compressors, filters and codecs that turn bytes into bytes or numbers; among the others is one that unpickles.
_CODECS = {
    "blosc", "bytes", "bz2", "crc32c", "delta", "gzip", "lz4", "lzma", "sharding_indexed", "shuffle", "transpose",
    "zlib", "zstd",
}  # fmt: skip
_METADATA = (".zarray", "zarr.json")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in (*_METADATA, ".zgroup"))


class ZarrFolder(ArrayFile):
    """A zarr folder; an array in a group is called by its path, as "train/images".

    An array whose metadata name a codec that could run code is refused: it may come from a stranger.

    Args:
        path: The folder.

    Raises:
        ImportError: zarr is not installed.
        ValueError: A folder that is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import zarr
        except ImportError as error:
            raise ImportError(f"{path} is zarr, which needs the package zarr: pip install 'scoresde[zarr]'") from error
        self._open = zarr.open_array
        found = (file for name in _METADATA for file in path.rglob(name))
        self._arrays: dict[str, tuple[Path, dict[str, Any]]] = {}
        for file in sorted(found):
            metadata = _metadata(file)
            if file.name == ".zarray" or metadata.get("node_type") == "array":
                place = file.parent.relative_to(path).as_posix()
                self._arrays[path.stem if place == "." else place] = file.parent, metadata
        self.single = list(self._arrays.values())[:1] != [] and next(iter(self._arrays.values()))[0] == path

    def names(self) -> list[str]:
        """Paths of the arrays."""
        return list(self._arrays)

    def header(self, name: str) -> Header:
        """Shape and type of one array.

        Raises:
            ValueError: An array with a codec that is not allowed.
        """
        node = self._node(name)
        return Header(tuple(node.shape), np.dtype(node.dtype))

    def read(self, name: str) -> np.ndarray:
        """One array."""
        try:
            return np.asarray(self._node(name)[...])
        except Exception as error:  # of a damaged chunk
            raise ValueError(f"{self.where(name)} cannot be read: {one_line(error)}") from error

    def lazy(self, name: str) -> LazyArray | None:
        """One array through the library."""
        node, header = self._node(name), self.header(name)
        if header.dtype.kind not in "uif" or not header.shape:
            return None
        return SlicedArray(
            self._arrays[name][0], header.shape, header.dtype, self.where(name), lambda a, b: np.asarray(node[a:b])
        )

    def _node(self, name: str) -> Any:
        place, metadata = self._arrays[name]
        unknown = sorted(set(_codecs(metadata)) - _CODECS)
        if unknown:
            raise ValueError(
                f"{self.where(name)} has the codec {unknown[0]!r}, which is not read: write it anew without"
            )
        try:
            return self._open(str(place), mode="r")
        except Exception as error:  # of damaged metadata, as the library raises it
            raise ValueError(f"{self.where(name)} cannot be read: {one_line(error)}") from error


def _metadata(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: expected a mapping")
    return found


def _codecs(metadata: Any) -> list[str]:
    """Names of all codecs that metadata mention, at any depth."""
    if isinstance(metadata, list):
        return [name for part in metadata for name in _codecs(part)]
    if not isinstance(metadata, dict):
        return []
    own: list[str] = []
    for key in ("filters", "compressor", "codecs", "index_codecs"):
        parts = metadata.get(key) or []
        for part in parts if isinstance(parts, list) else [parts]:
            own.append(str(part.get("id") or part.get("name")) if isinstance(part, dict) else str(part))
            own += _codecs(part.get("configuration")) if isinstance(part, dict) else []
    return own
