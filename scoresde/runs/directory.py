"""Run directories: what a training writes, and how it is read again.

config.yaml  data.json  model.safetensors  summary.json  report.html  metrics.jsonl  checkpoints/  samples/
"""

import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import nn

from scoresde import shell
from scoresde.arguments import checked
from scoresde.chains import DiscreteChainModel
from scoresde.config.modules import foreign
from scoresde.config.targets import check_local, check_plain, check_targets, instantiate
from scoresde.config.trust import FILE, allowed, keep
from scoresde.data import CascadePart, Data, DataInfo
from scoresde.objectives import Criterion
from scoresde.options.errors import ConfigError
from scoresde.options.moved import with_current_names
from scoresde.options.settings import run_problem
from scoresde.runs import listing
from scoresde.runs.chains import RunModel, score_model
from scoresde.runs.html import run_html
from scoresde.runs.listing import Listed
from scoresde.runs.locks import check_writable, locked
from scoresde.runs.naming import check_name, config_hash
from scoresde.runs.older import former_arguments, former_classes, refuse_former_conditions
from scoresde.runs.provenance import provenance
from scoresde.runs.summary import Summary
from scoresde.runs.weights import Trained, load_model, new_model
from scoresde.sampling import ChainSampler, Sampler
from scoresde.score import NetworkScore, NoisyClassifier, OptimalVariances, StepRules
from scoresde.score.preconditioning import Preconditioning
from scoresde.sde import SDE
from scoresde.sde.erasure import ErasureChain
from scoresde.statistics import Statistics
from scoresde.storage.bounded import DamagedFile, read_json
from scoresde.storage.bounded_yaml import read_yaml
from scoresde.storage.digests import DIGEST, digest
from scoresde.storage.files import remove_leftovers, set_aside, write_bytes, write_text
from scoresde.storage.tensors import load_metadata, load_tensors, save_tensors
from scoresde.training.provenance import TRAINED_WITH, check_fit

_log = logging.getLogger(__name__)

__all__ = ["Run", "check_name", "config_hash", "load", "load_chain", "load_classifier"]

_KINDS: dict[str, tuple[type, ...]] = {
    "cascade": (CascadePart,),
    "data": (Data,),
    "network": (nn.Module,),
    "objective": (Criterion,),
    "preconditioning": (Preconditioning,),
    "sampler": (Sampler, ChainSampler),
    "sde": (SDE, ErasureChain),
}


class Run:
    """A run directory.

    Args:
        directory: The directory.
        config: Its configuration.
        allow: Packages besides the allow-list that the configuration may name; from the user, now or when `allow.json`
            was written with the user's key, never from the directory itself.
        accept: Keys of the configuration whose difference from what the weights were trained with is accepted; from
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
            ConfigError: Not a run directory, a broken `config.yaml`, an interpolation, a `_target_` outside the
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

    # -- files ------------------------------------------------------------------------------------------

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the directory, whole or not at all.

        Args:
            name: Path in the directory; folders are made.
            content: Its content.
        """
        write_bytes(self.directory / name, content)

    def write_text(self, name: str, text: str) -> None:
        """Write a text in UTF-8, as `write_bytes` does."""
        write_text(self.directory / name, text)

    def write_json(self, name: str, value: Any, indent: int = 2) -> None:
        """Write plain values as JSON, as `write_bytes` does."""
        self.write_text(name, json.dumps(value, indent=indent) + "\n")

    def write_npz(self, name: str, **arrays: np.ndarray) -> None:
        """Write arrays by their names, as `write_bytes` does."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        self.write_bytes(name, buffer.getvalue())

    def check_writable(self, *folders: str) -> None:
        """Reject a directory, or folders in it, that cannot be written to; see `scoresde.runs.locks`.

        Raises:
            ConfigError: A file or folder that cannot be written to, or a link; the message names it.
        """
        check_writable(self.directory, *folders)

    @contextmanager
    def alone(self, purpose: str, wait: bool = False) -> Iterator[None]:
        """Keep other processes from doing the same with the run, or `wait` for them.

        Raises:
            ConfigError: Another process is at it, or the directory cannot be written to.
        """
        with locked(self.directory, purpose, wait):
            yield

    def _stored(self, name: str, kind: type, locked: bool = False) -> Any:
        """Content of a JSON file; an empty one if there is none, or a damaged one, which is set aside.

        Args:
            name: Name of the file.
            kind: dict or list.
            locked: Other processes are kept from writing it.
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

    # -- configuration ----------------------------------------------------------------------------------

    def write_config(self) -> None:
        """Write `config.yaml`, resolved, and what the user allows it to name."""
        self.write_text("config.yaml", OmegaConf.to_yaml(self.config, resolve=True))
        self.keep_allowed()

    def keep_allowed(self) -> None:
        """Keep what the user allows with the run, for commands to come; warn where that is impossible."""
        if not self.allow:
            return
        reason = keep(self.directory, self.allow)
        if reason is not None:
            allow = shell.override("allow", self.allow)
            _log.warning("%s is not kept with the run (%s): give it again with every command", allow, reason)

    def make(self, key: str, **arguments: Any) -> Any:
        """The object that the configuration's `key` describes.

        Raises:
            ConfigError: As for `instantiate`, or an object of another kind.
        """
        made = instantiate(self.config, key, self.allow, **arguments)
        kinds = _KINDS.get(key, (object,))
        if not isinstance(made, kinds):
            raise ConfigError(f"{key} is a {type(made).__name__}, expected a {kinds[0].__name__}")
        return made

    # -- data -------------------------------------------------------------------------------------------

    @property
    def has_data(self) -> bool:
        """True unless the run was imported without data."""
        return "imported" not in self.config or self.config.get("data") is not None

    def data(self) -> Data:
        """Load the data set, with the transform that the run was trained with.

        Raises:
            ConfigError: Data that cannot be read, or of another shape or number of levels than the run's; or a run that
                was imported without data.
        """
        if not self.has_data:
            raise ConfigError(
                f"{self.directory} was imported without data: give them, as by data=file data.path=FILE, where the "
                "command takes them, or import it again with data=NAME data.path=..."
            )
        info = self.info()
        node: Any = OmegaConf.to_container(self.config.get("data") or OmegaConf.create())
        refuse_former_conditions(node)
        data: Data = self.make("data", **({} if info is not None else former_arguments(node)))
        if (part := self.part()) is not None:
            try:
                data = part.of(data)
            except ValueError as error:
                raise ConfigError(f"cascade: {error}") from error
        names = None if info is None else info.class_names
        if info is None and (self.directory / "config.yaml").is_file():
            names = former_classes(self.config, data)
        conditional = OmegaConf.select(self.config, "network.num_classes") is not None
        if conditional and names is not None and data.class_names not in (None, names):
            data = data.with_classes(names)
        if info is None:
            return data
        check_fit(str(self.info_path), info, data)
        return replace(data, transform=info.transform)

    def part(self) -> CascadePart | None:
        """The part of a cascade that the run's model is; None if it is of the data as they are."""
        return None if self.config.get("cascade") is None else self.make("cascade")

    @property
    def info_path(self) -> Path:
        return self.directory / "data.json"

    def info(self) -> DataInfo | None:
        """Facts about the data that the run was trained on; None in the directory of an older version.

        Raises:
            ConfigError: A damaged file.
        """
        if not self.info_path.is_file():
            return None
        try:
            return DataInfo.from_plain(read_json(self.info_path, dict))
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{self.info_path} is damaged: {' '.join(str(error).split())[:200]}") from error

    def write_info(self, info: DataInfo) -> None:
        """Write `data.json`."""
        self.write_json(self.info_path.name, info.to_plain(), indent=1)

    def provenance(self) -> dict[str, Any]:
        """Everything that weights of the run depend on in use."""
        return provenance(self.config, self.info())

    # -- model ------------------------------------------------------------------------------------------

    @property
    def model_path(self) -> Path:
        return self.directory / "model.safetensors"

    def fingerprint(self) -> str:
        """Sixteen characters of the digest of the model's tensors: the same exactly when the tensors are.

        Raises:
            CheckpointError: As for `model`.
        """
        tensors = load_tensors(self.model_path)
        # It was compared with the tensors as they were read; older files have none.
        return (load_metadata(self.model_path).get(DIGEST) or digest(tensors))[:16]

    def step(self) -> int | None:
        """The training step of the model's weights; None if its file does not say."""
        step = load_metadata(self.model_path).get("step", "")
        return int(step) if step.isdecimal() else None

    def save_model(self, model: Trained, step: int) -> None:
        """Write the weights and the data's statistics."""
        metadata = {"format": "scoresde-model-1", "step": str(step), TRAINED_WITH: json.dumps(self.provenance())}
        save_tensors(self.model_path, model.state_dict(), metadata)

    def model(self, rules: bool = True) -> NetworkScore:
        """The trained score model, in evaluation mode, with the step rules and variances that were measured for it.

        Args:
            rules: Read the step rules; False where they are measured anew.

        Raises:
            CheckpointError: No model yet, a truncated or foreign file, or one of another configuration.
            ConfigError: A configuration that is not the one that the weights were trained with, a file of step rules
                or of variances that is damaged, or a run of a discrete chain.
        """
        return score_model(self.any_model(rules), "this")

    def any_model(self, rules: bool = True) -> RunModel:
        """The trained model, which may be that of a discrete chain; see `model`.

        Raises:
            ConfigError: As for `model`, or a run of a classifier.
        """
        model = self._trained()
        if isinstance(model, NoisyClassifier):
            raise ConfigError(
                f"{self.directory} has a classifier of noised samples, and this needs a model of them: give the run of "
                f"one, which {shell.override('guidance.classifier', self.directory)} with guidance=classifier guides"
            )
        path = self.directory / StepRules.FILE
        variances = self.directory / OptimalVariances.FILE
        if not isinstance(model, NetworkScore):
            return model
        try:
            if rules and path.is_file():
                model.step_rules = StepRules.load(path)
            if variances.is_file():
                model.optimal_variances = OptimalVariances.load(variances)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return model

    def _trained(self) -> Trained:
        return load_model(self.model_path, self.make, self.provenance(), self.accept, self.directory / "config.yaml")

    def classifier(self) -> NoisyClassifier:
        """The trained classifier of noised samples, in evaluation mode, which knows its data.

        Raises:
            CheckpointError: As for `model`.
            ConfigError: As for `model`, or a run of another kind.
        """
        model = self._trained()
        if not isinstance(model, NoisyClassifier):
            raise ConfigError(
                f"{self.directory} has a {type(model).__name__}, expected a classifier of noised samples: train one by "
                "scoresde train objective=classifier"
            )
        model.info = self.info()
        return model

    def new_model(self, shape: tuple[int, ...], statistics: Statistics) -> Trained:
        """A new model as the configuration says, for samples of `shape`.

        Args:
            shape: Shape of a sample.
            statistics: Moments of the training data in model space.

        Raises:
            ConfigError: As for `make`, or a network that is too large to be trained.
        """
        return new_model(self.make, shape, statistics)

    # -- results ----------------------------------------------------------------------------------------

    def summary(self) -> Summary:
        """Content of `summary.json`; empty if there is none, or a damaged one, which is set aside."""
        return Summary(self._stored("summary.json", dict))

    def add_to_summary(self, **entries: Any) -> Summary:
        """Set entries of `summary.json`; None removes one."""
        with self.alone("summary", wait=True):
            remove_leftovers(self.directory, "summary.json")
            entries = {**self._stored("summary.json", dict, locked=True), **entries}
            summary = Summary({key: value for key, value in entries.items() if value is not None})
            self.write_json("summary.json", summary)
        return summary

    def pictures(self) -> list[Listed]:
        """The figures that `pictures.json` lists for the report: file, title and caption of each."""
        return listing.listed(self._stored("pictures.json", list))

    def add_picture(self, file: str, title: str, caption: str, **facts: Any) -> None:
        """List a figure for the report; one of the same file is replaced. Those of earlier weights stay the last.

        Args:
            file: Path of the file in the run directory.
            title: Title of the figure.
            caption: One or two sentences.
            **facts: Further entries for the report, such as `kind`.
        """
        entry = {"file": file, "title": title, "caption": caption, **facts}
        self._change_pictures(lambda figures: listing.put(figures, entry))

    def rename_picture(self, file: str, new: str) -> None:
        """List a figure under another file."""
        self._change_pictures(lambda figures: listing.rename(figures, file, new))

    def date_pictures(self, step: int) -> None:
        """Say of all figures listed so far that they are of the weights after `step` steps."""
        self._change_pictures(lambda figures: listing.date(figures, step))

    def _change_pictures(self, change: Callable[[list[Listed]], None]) -> None:
        with self.alone("pictures", wait=True):
            remove_leftovers(self.directory, "pictures.json")
            before, figures = (listing.listed(self._stored("pictures.json", list, locked=True)) for _ in range(2))
            change(figures)
            if figures != before:
                self.write_json("pictures.json", figures)


@checked
def load(directory: str | Path, allow: Sequence[str] = (), accept: Sequence[str] = ()) -> NetworkScore:
    """The trained score model of a run directory, in evaluation mode.

    The model knows its data (`model.info`): of continuous data it gives samples and log-densities in their units, and
    `model.decode(out.x)` are the pixels of discrete data; `print(model)` says what it is of.

    No code of the directory is run: tensors come from safetensors, and the configuration may only name classes
    in an allow-list.

    Args:
        directory: Directory that `scoresde train` wrote.
        allow: Further packages that its configuration may name, for networks of your own: installed, or in the current
            folder. Those that you have allowed in a command are kept with the run.
        accept: Keys of its configuration, such as `sde.beta_max`, that may differ from what the weights were trained
            with.

    Raises:
        ConfigError: Not a run directory, a class outside the allow-list, a configuration that was changed since
            training, or a run of a discrete chain, which `load_chain` is for.
        CheckpointError: A missing, truncated or foreign model file.
    """
    run = Run.open(directory, allow, accept)
    model = score_model(run.any_model(), "scoresde.load (scoresde.load_chain is for others)")
    model.info = run.info()
    return model


@checked
def load_chain(directory: str | Path, allow: Sequence[str] = (), accept: Sequence[str] = ()) -> DiscreteChainModel:
    """The trained model of a discrete chain of a run directory, in evaluation mode.

    It gives samples by `scoresde.chains.sample_chain` and bounds by `scoresde.likelihood.chain_bound`.

    Args:
        directory: Directory that `scoresde train` wrote.
        allow: Further packages that its configuration may name, as for `load`.
        accept: Keys of its configuration that may differ from what the weights were trained with.

    Raises:
        ConfigError: As for `load`, or a run of a score model.
        CheckpointError: A missing, truncated or foreign model file.
    """
    run = Run.open(directory, allow, accept)
    model = run.any_model()
    if not isinstance(model, DiscreteChainModel):
        raise ConfigError(f"{run.directory} has a score model of {type(model.sde).__name__}: take scoresde.load")
    model.info = run.info()
    return model


@checked
def load_classifier(directory: str | Path, allow: Sequence[str] = (), accept: Sequence[str] = ()) -> NoisyClassifier:
    """The trained classifier of noised samples of a run directory, in evaluation mode.

    `scoresde.guidance.ClassifierGuidance(model, classifier, scale)` guides a score model by it.

    Args:
        directory: Directory that `scoresde train objective=classifier` wrote.
        allow: Further packages that its configuration may name, as for `load`.
        accept: Keys of its configuration that may differ from what the weights were trained with.

    Raises:
        ConfigError: As for `load`, or a run of another kind.
        CheckpointError: A missing, truncated or foreign model file.
    """
    return Run.open(directory, allow, accept).classifier()
