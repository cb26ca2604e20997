"""Samplers by the names of their files."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from scoresde.compare import ignores_steps
from scoresde.config.targets import instantiate
from scoresde.options.errors import ConfigError
from scoresde.options.signatures import nearest
from scoresde.sampling import Sampler, ScipyODE, TorchSDE, TunedTimes
from scoresde.score import StepRules
from scoresde.storage.bounded import read_file

__all__ = ["Presets"]

# Solvers and correctors that in version 0.1.0 drew other samples with the same settings
_OTHERS = re.compile(r"\b(AutoAdams|Langevin|Multistep|TorchSDE)\b")


class Presets:
    """The samplers of folders of configurations, by the names of the files.

    Args:
        folder: Folder such as `conf/sampler`.
        directory: Directory of the run, where the files of `scoresde tune` are.
        allow: Further packages that the configurations may name.
        further: Folders of the user's own samplers; of files of the same name the first counts, as for Hydra.
    """

    def __init__(self, folder: Path, directory: Path, allow: Sequence[str] = (), further: Sequence[Path] = ()) -> None:
        self.directory = directory
        self.allow = tuple(allow)
        self.files: dict[str, Path] = {}
        for each in (folder, *further):
            for path in sorted(each.glob("*.yaml")):
                self.files.setdefault(path.stem, path)

    def __call__(self, name: str, steps: int | None = None) -> Sampler:
        """The sampler of a name, at its own number of steps if none is given."""
        self.check([name])
        config = OmegaConf.create({"sampler": OmegaConf.load(self.files[name])})
        if steps is not None:
            config.sampler.grid.steps = steps
        sampler: Sampler = instantiate(config, "sampler", self.allow)
        return sampler.in_run(self.directory)

    def check(self, names: Sequence[str]) -> None:
        """Reject names without a file.

        Raises:
            ConfigError: Such a name; the message has the nearest that there is.
        """
        for name in names:
            if name not in self.files:
                raise ConfigError(
                    f"unknown sampler {name!r}{nearest(str(name), self.files)}; "
                    f"expected names of {', '.join(self.files)}"
                )

    def cells(self, names: Sequence[str] | None, steps: Sequence[int]) -> list[tuple[str, int | None]]:
        """Pairs of a sampler and a number of steps; None where the sampler's tolerance decides, once.

        Without names these are all, but for the references of other libraries and numbers of steps that no file of
        `scoresde tune` is for.
        """
        cells: list[tuple[str, int | None]] = []
        for name in self.files if names is None else dict.fromkeys(names):
            own = self(name)
            if names is None and isinstance(own.solver, ScipyODE | TorchSDE):
                continue
            if ignores_steps(own):
                cells.append((name, None))
                continue
            tuned = names is None and isinstance(own.grid, TunedTimes)
            cells += [(name, n) for n in steps if not tuned or self._tuned(n).is_file()]
        return cells

    def identity(self, name: str, steps: int | None) -> str:
        """A text that is the same exactly when the sampler is."""
        text = f"{OmegaConf.to_yaml(OmegaConf.load(self.files[name]))}{steps}"
        if _OTHERS.search(text):
            text += "not as in 0.1.0"
        if steps is not None and "TunedTimes" in text and self._tuned(steps).is_file():
            text += read_file(self._tuned(steps)).decode(errors="replace")
        rules = self.directory / StepRules.FILE
        if "AutoAdams" in text and rules.is_file():
            text += read_file(rules).decode(errors="replace")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _tuned(self, steps: int) -> Path:
        return self.directory / f"tuned-{steps}.json"
