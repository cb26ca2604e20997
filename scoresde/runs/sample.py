"""Draws samples from a run into its directory."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.data.array_data import array_file
from scoresde.data.array_files import read_arrays
from scoresde.data.labels import listed
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.runs.cascades import StackedRuns, in_data_units
from scoresde.runs.chains import RunModel, check_sampler, score_model
from scoresde.runs.conditions import conditions_of, other_conditions, told_conditions
from scoresde.runs.directory import Run, check_name
from scoresde.runs.labels import class_names, label_index
from scoresde.runs.pictures import picture_of_samples
from scoresde.runs.results import differences, identity_of, is_of
from scoresde.runs.steered import Steered
from scoresde.runs.texts import text_conditions
from scoresde.sampling import ChainSampler, Sampler, edit
from scoresde.score import ScoreModel
from scoresde.storage.bounded import read_file
from scoresde.storage.files import remove_leftovers
from scoresde.storage.limits import check_memory, check_unpacked

__all__ = ["Draw", "sample", "saved_samples"]


_NOTE = "note"  # the array of a file of samples that says how they were drawn, as JSON


@dataclass(frozen=True)
class Draw:
    """A choice of samples to draw.

    Attributes:
        sampler: The sampler; `Steered` for one of a density of which the model is a part.
        n: Number of samples.
        seed: Seed of their noise.
        label: Class to draw from, by its name or index, for models with classes; else classes come in turn.
        batch_size: Samples to work on at once, which change nothing in them.
        guided: The model under guidance, which samples are drawn of; the model itself if None.
        start: File of the data to begin from, in turn; None for noise.
        strength: Share of the steps that is taken from `start` on.
        guidance: A text that is the same for two guidances exactly when they are; None for none.
        condition: File of arrays with the conditions of the samples; None: classes and held-out conditions in turn.
        text: Sentences by which samples are drawn in turn; none for other conditions.
        cascade: The run as the last stage of a cascade, whose conditions are those of the base model; else None.
    """

    sampler: Sampler | ChainSampler | Steered
    n: int
    seed: int = 0
    label: int | str | None = None
    batch_size: int = 1024
    guided: ScoreModel | None = None
    guidance: str | None = None
    start: str | None = None
    strength: float = 0.6
    condition: str | None = None
    text: tuple[str, ...] = ()
    cascade: StackedRuns | None = None

    def asked(self, model: RunModel) -> RunModel | ScoreModel:
        """What samples are drawn of, and whose conditions they have: the guided model, or the run's.

        Of a cascade it is the base model, guided or not.
        """
        if self.guided is not None:
            return self.guided
        return model if self.cascade is None else self.cascade.stages[0].model

    def asked_data(self, data: Data | DataInfo) -> Data | DataInfo:
        """The data of that model, or what is known of them."""
        return data if self.cascade is None else self.cascade.data

    def conditions(self, model: RunModel, data: Data | DataInfo) -> dict[str, Tensor]:
        """The conditions of the samples, by name; see `conditions_of`."""
        asked, data = self.asked(model), self.asked_data(data)
        if self.text:
            return text_conditions(asked, data, self.n, self.text)
        return conditions_of(asked, data, self.n, self.label, self.condition)

    def settings(self, run: Run, model: RunModel, data: Data | DataInfo) -> dict[str, Any]:
        """The settings that the samples depend on, the label as an index.

        Args:
            run: The run.
            model: Its model.
            data: Its data, or what is known of them.
        """
        asked, data = self.asked(model), self.asked_data(data)
        label = label_index(asked, self.label, data.class_names)
        steered = self.sampler if isinstance(self.sampler, Steered) else None
        name = type(steered.sampler).__name__ if steered else identity_of(cast(Any, self.sampler), run)
        plain = {"sampler": name, "n": self.n, "seed": self.seed, "label": label}
        if steered:
            plain["steer"] = steered.identity
        if self.text:
            plain["text"] = list(self.text)
        elif self.condition is not None:
            plain["condition"] = hashlib.sha256(read_file(Path(self.condition))).hexdigest()[:8]
        elif other_conditions(asked):
            whole = data.fingerprint() if isinstance(data, Data) else data.fingerprint
            plain["condition"] = f"held-out data {(whole or 'unknown')[:8]}"
        # Those of earlier versions have no entry for guidance.
        guidance = {} if self.guidance is None else {"guidance": self.guidance}
        if self.start is not None:
            plain |= {"start": hashlib.sha256(read_file(Path(self.start))).hexdigest()[:8], "strength": self.strength}
        cascade = {} if self.cascade is None else {"cascade": self.cascade.identity()}
        return {**plain, "model": run.fingerprint(), **guidance, **cascade}


def sample(
    run: Run,
    model: RunModel,
    data: Data | DataInfo,
    draw: Draw,
    *,
    name: str = "samples",
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[Tensor, dict[str, Any]]:
    """Draw samples, save them and a figure of them; those that are there with the same settings are read.

    Args:
        run: The run.
        model: Its model.
        data: Its data, or what is known of them, with which the figure shows no held-out data beside the samples.
        draw: Which samples are drawn.
        name: Name of the files in `samples/`.
        overwrite: Replace samples of the same name with other settings.
        progress: Show a progress bar.

    Returns:
        The samples `(n, ...)` in raw units, and what they cost.

    Raises:
        ConfigError: There are samples of this name with other settings, or a wrong option.
    """
    n, seed = draw.n, draw.seed
    for problem in option_problems("sample", {"n": n, "seed": seed, "batch_size": draw.batch_size}):
        raise ConfigError(problem)
    check_memory(8 * n * math.prod(data.shape), f"n={n}")
    check_name(name)
    run.check_writable("samples")
    source, of_source = draw.asked(model), draw.asked_data(data)
    cond = draw.conditions(model, data)
    start = None if draw.start is None else _start(draw.start, n, model, data)
    path = run.directory / "samples" / f"{name}.npz"
    with run.alone(f"samples-{name}"):
        remove_leftovers(path.parent, f"{escape(name)}.npz")
        settings = draw.settings(run, model, data)
        known = None if overwrite else saved_samples(path)
        if known is not None:
            saved, note = known
            if note is None or not is_of(note, settings) or saved.shape != (n, *data.shape):
                raise ConfigError(
                    f"{path} is there already, {differences(note, settings)}: give another name, or overwrite=true to "
                    "replace it"
                )
            return saved, {**note, "reused": True}
        began = time.perf_counter()
        options: dict[str, Any] = {"seed": seed, "batch_size": draw.batch_size, "progress": progress, **cond}
        steered = isinstance(draw.sampler, Steered)
        if not isinstance(draw.sampler, Steered):
            check_sampler(model, draw.sampler)
        out: Any
        lower: dict[str, np.ndarray] = {}
        if draw.cascade is not None:
            out, lower = draw.cascade(cast(ScoreModel, source), n, **options)
        elif start is None:
            out = cast(Any, draw.sampler)(source, (n, *data.shape), **options)
        else:
            out = edit(cast(Sampler, draw.sampler), cast(ScoreModel, source), start, draw.strength, **options)
        seconds = time.perf_counter() - began
        raw = data.transform.decode(out.x.cpu()) if draw.cascade is None else in_data_units(data.transform, out.x)
        further = out.arrays() if steered else lower
        figures = out.figures() if steered else {}
        cost = {**settings, "step": run.step(), "nfe": out.nfe, "seconds": seconds, **figures}
        arrays: dict[str, Any] = {"x": raw.numpy(), **{k: v.cpu().numpy() for k, v in cond.items()}}
        if draw.text:  # which takes the place of its tokens
            told = [draw.text[i % len(draw.text)] for i in range(n)]
            arrays = {"x": raw.numpy(), "text": np.array(told)}
        run.write_npz(f"samples/{name}.npz", **arrays, **further, **{_NOTE: np.array(json.dumps(cost))})
        names = of_source.class_names
        classes = told_conditions(source, names, settings["label"], draw.condition)
        if draw.text:
            classes = f" by the text {listed([repr(text) for text in draw.text])}{_in_turn(draw.text)}"
        classes += "" if draw.cascade is None else draw.cascade.words()
        file = "" if name == "samples" else f", in {name}.npz"
        guidance = "" if draw.guidance is None else f", guided by {draw.guidance}"
        if steered:
            guidance = f", steered to {settings['steer']}"
        caption = f"{n} samples{classes}{guidance}, {out.nfe} evaluations of the network each, seed {seed}{file}."
        in_turn = (
            source.classes is not None and settings["label"] is None and not settings.keys() & {"condition", "text"}
        )
        picture_of_samples(run, data, raw, name, caption, class_names(source, names) if in_turn else ())
        return raw, cost


def _in_turn(texts: Sequence[str]) -> str:
    return " in turn" if len(texts) > 1 else ""


def _start(file: str, n: int, model: RunModel, data: Data | DataInfo) -> Tensor:
    """n of the data in a file, in turn, in model space.

    Raises:
        ConfigError: No array in it, values of another shape, or a run of a discrete chain.
    """
    score_model(model, "start")
    try:
        (array,) = read_arrays(array_file(file, "start"), ["x"])
    except ValueError as error:
        raise ConfigError(f"start={file} has no array x that can be read: {error}") from error
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ConfigError(f"start={file} has x of dtype {array.dtype}, expected numbers, all of them finite")
    values = torch.from_numpy(np.ascontiguousarray(array))
    if tuple(values.shape[1:]) != tuple(data.shape) or not len(values):
        raise ConfigError(
            f"start={file} has x of shape {tuple(values.shape)}, expected that of samples of the run, "
            f"({', '.join(map(str, ('N', *data.shape)))})"
        )
    return data.transform.encode(values[torch.arange(n) % len(values)])


def saved_samples(path: Path) -> tuple[Tensor, dict[str, Any] | None] | None:
    """Samples in a file and the note of how they were drawn; None if there is no such file.

    The note is None in a file of an older version, or one that cannot be read.
    """
    if not path.is_file():
        return None
    try:
        check_unpacked(path, str(path))
        with np.load(path, allow_pickle=False) as file:
            note = json.loads(str(file[_NOTE]))
            return torch.from_numpy(file["x"]), note if isinstance(note, dict) else None
    except Exception:  # whatever a damaged or foreign file makes numpy and zipfile raise
        return torch.empty(0), None
