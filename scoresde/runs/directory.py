"""Run directories: what a training writes, and how it is read again.

config.yaml  data.json  model.safetensors  summary.json  report.html  metrics.jsonl  checkpoints/  samples/
"""

import hashlib
import json
import logging
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from torch import nn

from scoresde import shell
from scoresde.arguments import checked
from scoresde.config.modules import foreign
from scoresde.config.targets import check_local, check_plain, check_targets, instantiate
from scoresde.config.trust import FILE, allowed, keep
from scoresde.data import Data, DataInfo
from scoresde.objectives import Objective
from scoresde.options.errors import ConfigError
from scoresde.options.moved import with_current_names, with_first_names
from scoresde.options.settings import run_problem
from scoresde.runs.html import run_html
from scoresde.runs.outline import differences, filled, outline
from scoresde.runs.provenance import provenance
from scoresde.sampling import Sampler
from scoresde.score import NetworkScore
from scoresde.score.preconditioning import Preconditioning
from scoresde.sde import SDE
from scoresde.statistics import Statistics
from scoresde.storage.bounded import DamagedFile, parse_json, read_json
from scoresde.storage.bounded_yaml import read_yaml
from scoresde.storage.digests import DIGEST, digest
from scoresde.storage.files import remove_leftovers, set_aside, write_atomically
from scoresde.storage.tensors import load_header, load_metadata, load_tensors, save_tensors
from scoresde.training.checkpoint import CheckpointError
from scoresde.training.environment import default_types
from scoresde.training.provenance import TRAINED_WITH, check_fit, check_provenance

_log = logging.getLogger(__name__)

__all__ = ["Run", "build_model", "check_name", "config_hash", "load"]

# What a run's weights and figures depend on.
_IDENTITY = (
    "data", "sde", "network", "preconditioning", "objective", "optimizer", "training", "sampler", "evaluation",
)  # fmt: skip

_KINDS: dict[str, type] = {
    "data": Data,
    "network": nn.Module,
    "objective": Objective,
    "preconditioning": Preconditioning,
    "sampler": Sampler,
    "sde": SDE,
}

# What is written in place; other files are replaced as a whole, a link by a file.
_WRITTEN = ("checkpoints", "metrics.jsonl", "samples", "tensorboard", "wandb")

_FREE = ("training.log_every", "training.checkpoint_every", "training.keep")

_DATED = re.compile(r"Of the weights after \d+ steps\.$")


def config_hash(config: DictConfig) -> str:
    """Eight characters that two configurations share exactly when they give the same weights and figures."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    kept = {key: plain[key] for key in _IDENTITY if key in plain}
    for path in _FREE:
        group, key = path.split(".")
        kept.get(group, {}).pop(key, None)
    # Directories are named by it, so that it is not of names that change with the version.
    return hashlib.sha256(json.dumps(with_first_names(kept), sort_keys=True).encode()).hexdigest()[:8]


def check_name(name: str) -> None:
    """Refuse what is no plain name of a file or folder.

    Raises:
        ConfigError: a name with slashes, or . or ..
    """
    if Path(name).name != name or name in ("", ".", ".."):
        raise ConfigError(f"name is {name!r}, expected a name without slashes, and not . or ..")


class Run:
    """A run directory.

    Args:
        directory: where.
        config: its configuration.
        allow: packages besides the allow-list that the configuration may name; from the user, now or when `allow.json`
            was written with the user's key, never from the directory itself.
        accept: keys of the configuration whose difference from what the weights were trained with is accepted; from
            the user.
    """

    def __init__(
        self, directory: Path, config: DictConfig, allow: Sequence[str] = (), accept: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.config = config
        self.allow = tuple(allow)
        self.accept = tuple(accept)

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    def _repr_html_(self) -> str:
        return run_html(self)

    @classmethod
    def open(cls, directory: str | Path, allow: Sequence[str] = (), accept: Sequence[str] = ()) -> "Run":
        """An existing run directory.

        Raises:
            ConfigError: not a run directory, a broken `config.yaml`, an interpolation, a `_target_` outside the
                allow-list, or data on another machine.
        """
        missing = run_problem(directory)
        if missing is not None:
            raise ConfigError(missing)
        path = Path(directory).expanduser()
        file = path / "config.yaml"
        try:
            plain = read_yaml(file)
        except DamagedFile as error:
            raise ConfigError(str(error)) from error
        if not isinstance(plain, dict | None):
            raise ConfigError(f"{file} holds no mapping; give a directory that `scoresde train` wrote")
        # The checks are of what was parsed, and the same plain values become the configuration.
        plain = with_current_names(plain or {})
        check_plain(plain, file)
        allow = allowed(path, allow, foreign(plain))
        try:
            check_targets(plain, allow)
            check_local(plain.get("data"), file, allow)
        except ConfigError as error:
            if (path / FILE).is_file() and not allow:
                raise ConfigError(
                    f"{error}; {path / FILE} is not by you on this machine, or {file.name} was changed since"
                ) from error
            raise
        return cls(path, OmegaConf.create(plain), allow, accept)

    def write_config(self) -> None:
        """Write `config.yaml`, resolved, and what the user allows it to name."""
        text = OmegaConf.to_yaml(self.config, resolve=True)
        write_atomically(self.directory / "config.yaml", lambda file: file.write(text.encode()))
        self.keep_allowed()

    def keep_allowed(self) -> None:
        """Keep what the user allows with the run, so that it need not be given again; warn where that is impossible."""
        if not self.allow:
            return
        reason = keep(self.directory, self.allow)
        if reason is not None:
            allow = shell.override("allow", self.allow)
            _log.warning("%s is not kept with the run (%s): give it again with every command", allow, reason)

    def make(self, key: str, **arguments: Any) -> Any:
        """The object that the configuration's `key` describes.

        Raises:
            ConfigError: as for `instantiate`, or an object of another kind.
        """
        made = instantiate(self.config, key, self.allow, **arguments)
        kind = _KINDS.get(key, object)
        if not isinstance(made, kind):
            raise ConfigError(f"{key} is a {type(made).__name__}, expected a {kind.__name__}")
        return made

    def data(self) -> Data:
        """Load the data set, with the transform that the run was trained with.

        Raises:
            ConfigError: data that cannot be read, or of another shape or number of levels than the run's.
        """
        info = self.info()
        node: Any = OmegaConf.to_container(self.config.get("data") or OmegaConf.create())
        data: Data = self.make("data", **({} if info is not None else _as_before(node)))
        names = None if info is None else info.class_names
        if info is None and (self.directory / "config.yaml").is_file():
            names = _classes_before(self, data)
        conditional = OmegaConf.select(self.config, "network.num_classes") is not None
        if conditional and names is not None and data.class_names not in (None, names):
            data = data.with_classes(names)
        if info is None:
            return data
        check_fit(str(self.info_path), info, data)
        return replace(data, transform=info.transform)

    @property
    def info_path(self) -> Path:
        return self.directory / "data.json"

    def info(self) -> DataInfo | None:
        """Facts about the data that the run was trained on; None in the directory of an older version.

        Raises:
            ConfigError: a damaged file.
        """
        if not self.info_path.is_file():
            return None
        try:
            return DataInfo.from_plain(read_json(self.info_path, dict))
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{self.info_path} is damaged: {' '.join(str(error).split())[:200]}") from error

    def write_info(self, info: DataInfo) -> None:
        """Write `data.json`."""
        text = json.dumps(info.to_plain(), indent=1) + "\n"
        write_atomically(self.info_path, lambda file: file.write(text.encode()))

    def provenance(self) -> dict[str, Any]:
        """Everything that weights of the run depend on in use."""
        return provenance(self.config, self.info())

    @property
    def model_path(self) -> Path:
        return self.directory / "model.safetensors"

    def fingerprint(self) -> str:
        """Sixteen characters of the digest of the model's tensors: the same exactly when the tensors are.

        Raises:
            CheckpointError: as for `model`.
        """
        tensors = load_tensors(self.model_path)
        # It was compared with the tensors as they were read; older files have none.
        return (load_metadata(self.model_path).get(DIGEST) or digest(tensors))[:16]

    def step(self) -> int | None:
        """The training step of the model's weights; None if its file does not say."""
        step = load_metadata(self.model_path).get("step", "")
        return int(step) if step.isdecimal() else None

    def save_model(self, model: NetworkScore, step: int) -> None:
        """Write the weights and the data's statistics."""
        metadata = {"format": "scoresde-model-1", "step": str(step), TRAINED_WITH: json.dumps(self.provenance())}
        save_tensors(self.model_path, model.state_dict(), metadata)

    def model(self) -> NetworkScore:
        """The trained model, in evaluation mode.

        Raises:
            CheckpointError: no model yet, a truncated or foreign file, or one of another configuration.
            ConfigError: a configuration that is not the one that the weights were trained with.
        """
        shapes, metadata = load_header(self.model_path)
        # Older files do not say what they were trained with.
        then = parse_json(metadata.get(TRAINED_WITH, "{}").encode(), self.model_path)
        if not isinstance(then, dict):
            raise CheckpointError(f"{self.model_path} is damaged: what it was trained with is no mapping")
        check_provenance(str(self.model_path), then, self.provenance(), self.accept)
        try:
            make = partial(self.make, "network", shape=shapes["statistics.mean"])
            own = _part(shapes, "network.")
            with default_types():
                network = outline(make, sum(map(math.prod, own.values())), self.model_path)
            if network is not None:
                for difference in differences(network, own):
                    raise ValueError(f"network.{difference}")
            tensors = load_tensors(self.model_path)
            known = _part(tensors, "statistics.")
            # Which are there depends on the data's size and on the version that wrote the file.
            optional = (known.get(name) for name in ("covariance", "variance", "dct_variance"))
            statistics = Statistics(known["mean"], known["std"], *optional)
            with default_types():
                network = filled(network, make, _part(tensors, "network."))
                model = NetworkScore(network, self.make("sde"), self.make("preconditioning"), statistics)
            model.load_state_dict(tensors)
        except (KeyError, RuntimeError, ValueError) as error:
            if isinstance(error, ConfigError | CheckpointError):
                raise
            raise CheckpointError(
                f"{self.model_path} does not hold the model that {self.directory / 'config.yaml'} describes: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        return model.eval()

    # -- results ----------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; empty if there is none, or a damaged one, which is set aside."""
        return self._stored("summary.json", dict)

    def _stored(self, name: str, kind: type, locked: bool = False) -> Any:
        """The content of a JSON file; an empty one if there is none, or a damaged one, which is set aside.

        Args:
            name: of the file.
            kind: dict or list.
            locked: other processes are kept from writing it.
        """
        path = self.directory / name
        try:
            return read_json(path, kind)
        except FileNotFoundError:
            return kind()
        except DamagedFile as error:
            damage = error
        try:
            if not locked:
                with self.alone(path.stem, wait=True):
                    return self._stored(name, kind, locked=True)
            _log.warning("%s; it was set aside as %s", damage, set_aside(path).name)
        except (OSError, ConfigError):  # a read-only directory
            _log.warning("%s; it is left out", damage)
        return kind()

    def check_writable(self, *folders: str) -> None:
        """Refuse a directory that cannot be written to, or one of these folders in it; what is not there yet is fine.

        Neither are symbolic links in it followed, by which a stranger's run could have other files changed. The
        directory itself may be one: it is the user who names it.

        Raises:
            ConfigError: naming it.
        """
        for path in self.directory.glob("*") if self.directory.is_dir() else ():
            if path.is_symlink() and (path.name in _WRITTEN or path.suffix in (".csv", ".lock")):
                raise ConfigError(
                    f"{path} is a symbolic link, which is not followed for writing: put what it points to in its place"
                )
        for path in (self.directory, *(self.directory / name for name in folders)):
            if path.exists() and not path.is_dir():
                raise ConfigError(f"{path} is a file, expected a folder: move it away")
            if not path.exists():
                continue
            try:
                tempfile.TemporaryFile(dir=path).close()
            except OSError as error:
                raise ConfigError(
                    f"{path} cannot be written to ({error.strerror}): make it writable, or use a copy"
                ) from error

    @contextmanager
    def alone(self, purpose: str, wait: bool = False) -> Iterator[None]:
        """Keep other processes from doing the same with the run, or `wait` for them.

        Raises:
            ConfigError: another process is at it, or the directory cannot be written to.
        """
        self.check_writable()
        made = [path for path in (self.directory, *self.directory.parents) if not path.exists()]
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{purpose}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout as error:
            raise ConfigError(f"{self.directory} is in use by another process ({purpose}): let it end first") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):  # folders that are still empty
                for folder in made:
                    folder.rmdir()

    def add_to_summary(self, **entries: Any) -> dict[str, Any]:
        """Set entries of `summary.json`; None removes one."""
        with self.alone("summary", wait=True):
            remove_leftovers(self.directory, "summary.json")
            entries = {**self._stored("summary.json", dict, locked=True), **entries}
            summary = {key: value for key, value in entries.items() if value is not None}
            text = json.dumps(summary, indent=2)
            write_atomically(self.directory / "summary.json", lambda file: file.write(text.encode() + b"\n"))
        return summary

    def pictures(self) -> list[dict[str, str]]:
        """What `pictures.json` lists for the report: file, title and caption of each."""
        return self._pictures()

    def _pictures(self, locked: bool = False) -> list[dict[str, str]]:
        listed = self._stored("pictures.json", list, locked)
        return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("file"), str)]

    def add_picture(self, file: str, title: str, caption: str, **facts: Any) -> None:
        """List a picture for the report; one of the same file is replaced. Those of earlier weights stay the last.

        Args:
            file: as the run directory names it.
            title: of the picture.
            caption: one or two sentences.
            facts: further entries for the report, such as `kind`.
        """
        entry = {"file": file, "title": title, "caption": caption, **facts}

        def add(pictures: list[dict[str, str]]) -> None:
            places = [i for i, p in enumerate(pictures) if p["file"] == file]
            if places and not _DATED.search(_caption(pictures[places[0]])):
                pictures[places[0]] = entry
                return
            pictures[:] = [p for p in pictures if p["file"] != file]
            dated = [i for i, p in enumerate(pictures) if _DATED.search(_caption(p))]
            pictures.insert(dated[0] if dated else len(pictures), entry)

        self._change_pictures(add)

    def rename_picture(self, file: str, new: str) -> None:
        """List a picture under another file."""

        def rename(pictures: list[dict[str, str]]) -> None:
            for entry in pictures:
                if entry["file"] == file:
                    entry["file"] = new

        self._change_pictures(rename)

    def date_pictures(self, step: int) -> None:
        """Say of all pictures listed so far that they are of the weights after `step` steps."""

        def date(pictures: list[dict[str, str]]) -> None:
            for entry in pictures:
                if not _DATED.search(_caption(entry)):
                    entry["caption"] = f"{_caption(entry)} Of the weights after {step} steps.".strip()

        self._change_pictures(date)

    def _change_pictures(self, change: Callable[[list[dict[str, str]]], None]) -> None:
        with self.alone("pictures", wait=True):
            remove_leftovers(self.directory, "pictures.json")
            before, pictures = (self._pictures(locked=True) for _ in range(2))
            change(pictures)
            if pictures != before:
                text = json.dumps(pictures, indent=2)
                write_atomically(self.directory / "pictures.json", lambda handle: handle.write(text.encode() + b"\n"))


def _caption(picture: dict[str, str]) -> str:
    return str(picture.get("caption", ""))


def _as_before(node: dict[str, Any]) -> dict[str, Any]:
    """Arguments that the data of an older run, which keeps nothing of them, were read with before there were others."""
    then: dict[str, dict[str, Any]] = {
        # Levels, of any number, were mapped to [-1, 1], and continuous values had one scale.
        "scoresde.data.npz": {"standardise": "all" if node.get("levels") is None else "none", "channels_last": False},
        "scoresde.data.image_folder": {"split_folders": False},
    }
    return {key: value for key, value in then.get(str(node.get("_target_")), {}).items() if key not in node}


def _classes_before(run: Run, data: Data) -> tuple[str, ...] | None:
    """The order in which an older run counted the classes of its data: integers as they were, folders as text."""
    names, classes = data.class_names, OmegaConf.select(run.config, "network.num_classes")
    if names is None or classes is None:
        return names
    if OmegaConf.select(run.config, "data._target_") == "scoresde.data.image_folder":
        return tuple(sorted(names))
    numbers = tuple(map(str, range(classes)))
    return numbers if len(names) < classes and set(names) <= set(numbers) else names


def _part(named: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Entries whose names have the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def build_model(run: Run, shape: tuple[int, ...], statistics: Statistics) -> NetworkScore:
    """A new model as the configuration says, for samples of `shape`.

    Raises:
        ConfigError: as for `Run.make`, or a network that is too large to be trained.
    """
    make = partial(run.make, "network", shape=shape)
    try:
        outline(make)  # refused before memory is taken for it
    except ValueError as error:
        raise ConfigError(f"network: {error}") from error
    network = make()
    return NetworkScore(network, run.make("sde"), run.make("preconditioning"), statistics)


@checked
def load(directory: str | Path, allow: Sequence[str] = (), accept: Sequence[str] = ()) -> NetworkScore:
    """The trained score model of a run directory, in evaluation mode.

    The model knows its data (`model.info`): of continuous data it gives samples and log-densities in their units, and
    `model.decode(out.x)` are the pixels of discrete data; `print(model)` says what it is of.

    No code of the directory is run: tensors come from safetensors, and the configuration may only name classes
    in an allow-list.

    Args:
        directory: a directory that `scoresde train` wrote.
        allow: further packages that its configuration may name, for networks of your own: installed, or in the current
            folder. Those that you have allowed in a command are kept with the run.
        accept: keys of its configuration, such as `sde.beta_max`, that may differ from what the weights were trained
            with.

    Raises:
        ConfigError: not a run directory, a class outside the allow-list, or a configuration that was changed since
            training.
        CheckpointError: a missing, truncated or foreign model file.
    """
    run = Run.open(directory, allow, accept)
    model = run.model()
    model.info = run.info()
    return model
