"""Parts that a command takes by name: files of a group of configurations, or functions of the user's own."""

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from scoresde.config.targets import find_own, instantiate
from scoresde.options.errors import ConfigError
from scoresde.options.signatures import nearest
from scoresde.storage.bounded import read_file

__all__ = ["Named"]


class Named:
    """Parts by their names.

    Args:
        group: Name of the group, such as `method`.
        folder: Folder of its configurations.
        allow: Further packages that configurations and dotted names may name.
        further: Folders of the user's own configurations; of files of the same name the first counts, as for Hydra.
    """

    def __init__(self, group: str, folder: Path, allow: Sequence[str] = (), further: Sequence[Path] = ()) -> None:
        self.group, self.allow = group, tuple(allow)
        self.files: dict[str, Path] = {}
        for each in (folder, *further):
            for path in sorted(each.glob("*.yaml")):
                self.files.setdefault(path.stem, path)

    def __call__(self, name: str, **settings: Any) -> Any:
        """The part of a name, with some of its settings in place of those of its file.

        A dotted name is a function or a class of the user's own, in a package of `allow`; a class is called.

        Raises:
            ConfigError: No such part, or one that is not allowed.
        """
        if "." in name:
            found = find_own(name, self.allow)
            try:
                return found() if inspect.isclass(found) else found
            except Exception as error:
                raise ConfigError(f"{name}: {' '.join(str(error).split())}") from error
        if name not in self.files:
            raise ConfigError(
                f"unknown {self.group} {name!r}{nearest(str(name), self.files)}; expected names of "
                f"{', '.join(self.files) or 'none'}, or package.function of your own"
            )
        config = OmegaConf.create({self.group: OmegaConf.load(self.files[name])})
        for key, value in settings.items():
            OmegaConf.update(config, f"{self.group}.{key}", value)
        return instantiate(config, self.group, self.allow)

    def identity(self, name: str) -> str:
        """A text that is the same exactly when the part is, as far as its file or its module says."""
        if "." not in name:
            text = read_file(self.files[name])
        else:
            module = inspect.getmodule(find_own(name, self.allow))
            path = getattr(module, "__file__", None)
            text = name.encode() + (read_file(Path(path)) if path else b"")
        return hashlib.sha256(text).hexdigest()[:16]
