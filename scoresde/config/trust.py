"""Packages that the user allows a run's configuration to name, kept with the run and believed if this user wrote it.

`allow.json` in a run directory lists the packages that the user has allowed for it, with the folders that they lie in.
Anybody could put such a file into a directory. So it has a message authentication code (HMAC, RFC 2104), made with a
key that never leaves the user's own state folder, over the list and over the configuration that it is for. In a
directory of a stranger, or after a change of its configuration, the code does not fit, and nothing is allowed. The
directory may be moved and renamed.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoresde.config.modules import find_in, folder_of, packages, top_level
from scoresde.config.start import from_start
from scoresde.options.errors import ConfigError
from scoresde.storage.bounded import YAML, CheckpointError, read_file, read_json
from scoresde.storage.files import write_text

__all__ = ["FILE", "Trust", "allowed", "keep", "kept"]

FILE = "allow.json"
_FORMAT = "scoresde-allow-1"


@dataclass(frozen=True)
class Trust:
    """Packages, addresses and folders that the user has allowed.

    Attributes:
        allow: Packages that may be named, and beginnings of addresses of data.
        folders: Folders of top-level modules that are not installed.
    """

    allow: tuple[str, ...] = ()
    folders: Mapping[str, str] = field(default_factory=dict)


def keep(run: Path, allow: Sequence[str]) -> str | None:
    """Keep with a run what the user has just allowed for its configuration.

    Returns:
        Why it could not be kept; None if it is.
    """
    folders = {name: folder_of(name) for name in map(top_level, packages(allow))}
    content = {
        "allow": sorted(set(allow)),
        "folders": {name: str(folder) for name, folder in sorted(folders.items()) if folder is not None},
    }
    try:
        key = _key(make=True)
        code = _code(key, content, (run / "config.yaml").read_bytes())
        text = json.dumps({"format": _FORMAT, **content, "hmac": code}, indent=1) + "\n"
        path = run / FILE
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(path, text)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return None


def kept(run: Path) -> Trust | None:
    """Whatever this user has allowed for a run; None where nothing is kept, or what is kept is not by this user.

    Nothing counts as allowed once the configuration is another than the one that it was allowed for.
    """
    try:
        content = read_json(run / FILE, dict)
        key = _key(make=False)
        config = read_file(run / "config.yaml", YAML.size)
    except (OSError, CheckpointError):
        return None
    allow, folders, code = content.get("allow"), content.get("folders"), content.get("hmac")
    if content.get("format") != _FORMAT or not isinstance(code, str) or not code.isascii():
        return None
    if not isinstance(allow, list) or not isinstance(folders, dict):
        return None
    signed = {"allow": allow, "folders": folders}
    if not all(isinstance(text, str) for text in (*allow, *folders, *folders.values())):
        return None
    return Trust(tuple(allow), folders) if hmac.compare_digest(_code(key, signed, config), code) else None


def allowed(run: Path, given: Sequence[str], needed: Sequence[str] = ()) -> tuple[str, ...]:
    """The names that the configuration of a run may use: those given now, and those the user has allowed for it before.

    The modules are found from now on where they lay then, those that are given now in the current folder first.

    Args:
        run: Directory of the run.
        given: Packages and addresses that the user allows now.
        needed: Top-level modules that the configuration names.

    Raises:
        ConfigError: A module that is needed lies there no more, or one of another folder has its name.
    """
    find_in(from_start("."), given)
    trust = kept(run) or Trust()
    now = set(map(top_level, packages(given)))
    for name, folder in trust.folders.items():
        find_in(folder, [name], first=name not in now)
        if name in now or name not in needed:
            continue
        place = folder_of(name)
        if place is None and not any(Path(folder, part).exists() for part in (name, f"{name}.py")):
            raise ConfigError(
                f"{run} needs the module {name}, which is no more in {folder}: put it back, or give allow=[{name}] in "
                "the folder where it is now"
            )
        if place != Path(folder):
            raise ConfigError(
                f"{run} needs the module {name} of {folder}, but Python finds "
                f"{'an installed one' if place is None else f'that of {place}'}: rename one of them, or open the run "
                "in another process"
            )
    return (*given, *(name for name in trust.allow if name not in given))


def _code(key: bytes, content: dict[str, Any], config: bytes) -> str:
    signed = {"format": _FORMAT, **content, "config": hashlib.sha256(config).hexdigest()}
    return hmac.new(key, json.dumps(signed, sort_keys=True).encode(), "sha256").hexdigest()


def _key(make: bool) -> bytes:
    """The user's secret key.

    Raises:
        OSError: There is none and it cannot be made, or it is not for the user's eyes alone.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        folder = (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "scoresde"
    except RuntimeError as error:
        raise OSError(str(error)) from error
    path = folder / "key"
    if make and not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = folder / f"key-{secrets.token_hex(8)}"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            with suppress(FileExistsError):  # another process has been first
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if os.name == "posix" and (status.st_mode & 0o077 or status.st_uid != os.getuid()):
            raise OSError(f"{path} can be read by others: chmod 600, or remove it to have a new one made")
        key = file.read(64)
    if len(key) != 32:
        raise OSError(f"{path} is damaged: remove it to have a new one made")
    return key
