"""Results about data that are read when they are asked for, kept beside them so that they are found once.

A result is kept under the identity of the data: names, sizes and times of their files, a sample of the content, and how
they are read. Where any of these has changed it is not found, and made anew. Kept are plain values and tensors, which
are read without running anything; what is damaged counts as absent.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.data.rows import Rows
from scoresde.storage.files import write_bytes

__all__ = ["Cache", "cache_folder", "places_for"]

_log = logging.getLogger(__name__)

_FOLDER = ".scoresde"
_KEPT = 8  # results of a kind in a folder, of which the oldest make room for new ones


class Cache:
    """Results about some samples.

    Args:
        rows: The samples.
        *also: What the results depend on beside them, as plain values.
    """

    def __init__(self, rows: Rows, *also: Any) -> None:
        identity = rows.identity
        self._place = rows.place
        text = json.dumps([identity, *also], sort_keys=True, default=str)
        self._key = None if identity is None else hashlib.sha256(text.encode()).hexdigest()[:24]

    def value(self, kind: str) -> Any:
        """A plain value that was kept; None if there is none."""
        file = self._found(f"{kind}-{self._key}.json")
        if file is None:
            return None
        try:
            return json.loads(file.read_bytes())["value"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep_value(self, kind: str, value: Any) -> None:
        """Keep a plain value."""
        self._write(kind, ".json", json.dumps({"value": value}).encode())

    def tensors(self, kind: str) -> dict[str, Tensor] | None:
        """Tensors that were kept, by name; None if there are none."""
        file = self._found(f"{kind}-{self._key}.safetensors")
        if file is None:
            return None
        from safetensors.torch import load

        try:
            found: dict[str, Tensor] = load(file.read_bytes())
        except Exception:  # of a damaged file
            return None
        return found

    def keep_tensors(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors by name."""
        from safetensors.torch import save

        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self._write(kind, ".safetensors", save(plain))

    def _found(self, name: str) -> Path | None:
        if self._key is None or self._place is None:
            return None
        return next((folder / name for folder in places_for(self._place) if (folder / name).is_file()), None)

    def _write(self, kind: str, suffix: str, content: bytes) -> None:
        """Write a result beside the data, or into the cache where that place takes none; what fails is said."""
        if self._key is None or self._place is None:
            return
        problem: OSError | None = None
        for folder in places_for(self._place):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_bytes(folder / f"{kind}-{self._key}{suffix}", content)
                _make_room(folder, kind)
                return
            except OSError as error:
                problem = error
        _log.warning("%s of %s is not kept for the next time: %s", kind, self._place, problem)


def places_for(place: Path) -> tuple[Path, Path]:
    """The folders for results about data: beside them, and in the cache where that cannot be written to."""
    return (place if place.is_dir() else place.parent) / _FOLDER, cache_folder(place)


def cache_folder(place: Path) -> Path:
    """The folder for results about data whose own place cannot be written to: in `SCORESDE_CACHE`, or the user's cache.

    Args:
        place: The place of the data.
    """
    given = os.environ.get("SCORESDE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(given).expanduser() if given else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        root = Path(tempfile.gettempdir())
    own = hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:16]
    return root / "scoresde" / f"{place.stem or 'data'}-{own}"


def _make_room(folder: Path, kind: str) -> None:
    """Remove the oldest results of a kind above their number."""
    files = sorted(folder.glob(f"{kind}-*"), key=lambda p: p.stat().st_mtime, reverse=True)
    for file in files[_KEPT:]:
        file.unlink(missing_ok=True)
