"""Draws samples from a run into its directory."""

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.data.array_data import array_file
from scoresde.data.array_files import read_arrays
from scoresde.data.labels import listed
from scoresde.data.transforms import Transform
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import Progress, say
from scoresde.runs.blocks import Block, block_size, blocks
from scoresde.runs.cascades import StackedRuns, in_data_units
from scoresde.runs.chains import RunModel, check_sampler, score_model
from scoresde.runs.conditions import conditions_of, other_conditions, told_conditions
from scoresde.runs.decoders import Decoder
from scoresde.runs.directory import Run, check_name
from scoresde.runs.labels import class_names, label_index
from scoresde.runs.pictures import picture_of_samples
from scoresde.runs.results import differences, identity_of, is_of
from scoresde.runs.sample_files import Rows, SampleWriter, StoredSamples, per_file, stored_samples
from scoresde.runs.steered import Steered
from scoresde.runs.team import each
from scoresde.runs.texts import text_conditions
from scoresde.sampling import ChainSampler, Sampler, edit
from scoresde.score import ScoreModel
from scoresde.storage.bounded import read_file
from scoresde.storage.files import remove_leftovers
from scoresde.storage.limits import check_memory

__all__ = ["SHARD", "Draw", "draw_samples", "sample"]

SHARD = 10240  # samples in a file, if not told otherwise


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
        decoder: What decodes the samples, which are stored beside them as `decoded`; None for none.
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
    decoder: Decoder | None = None

    @property
    def divides(self) -> bool:
        """Whether blocks of samples can be drawn one by one: those of weighted particles are counted in groups."""
        return not isinstance(self.sampler, Steered)

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
        if self.decoder is not None:
            plain["decoder"] = self.decoder.name
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
    """The samples of `draw_samples`, read into memory, and what they cost.

    Returns:
        The samples `(n, ...)` in raw units, and what they cost.

    Raises:
        ConfigError: As for `draw_samples`, or more samples than the limit of memory lets be read.
    """
    _check(draw)
    check_memory(8 * draw.n * math.prod(data.shape), f"n={draw.n}")
    stored, cost = draw_samples(run, model, data, draw, name=name, overwrite=overwrite, progress=progress)
    return stored.read(), cost


def draw_samples(
    run: Run,
    model: RunModel,
    data: Data | DataInfo,
    draw: Draw,
    *,
    name: str = "samples",
    overwrite: bool = False,
    progress: bool = True,
    shard: int = SHARD,
) -> tuple[StoredSamples, dict[str, Any]]:
    """Draw samples, save them and a figure of them; those that are there with the same settings are left as they are.

    Samples are drawn in blocks, by all processes of the command (see `scoresde.runs.team`), and written as they come
    (see `scoresde.runs.sample_files`): an interrupted command goes on with what it has drawn.

    Args:
        run: The run.
        model: Its model.
        data: Its data, or what is known of them, with which the figure shows no held-out data beside the samples.
        draw: Which samples are drawn.
        name: Name of the files in `samples/`.
        overwrite: Replace samples of the same name with other settings.
        progress: Show a progress bar.
        shard: Largest number of samples in a file.

    Returns:
        The samples on disk, and what they cost.

    Raises:
        ConfigError: There are samples of this name with other settings, or a wrong option.
    """
    _check(draw, shard)
    check_name(name)
    run.check_writable("samples")
    # Numbers that are stored of each sample.
    numbers = math.prod(data.shape)
    if draw.decoder is not None:
        numbers += math.prod(draw.decoder.check(tuple(data.shape)))
    cond = draw.conditions(model, data)
    start = None if draw.start is None else _start(draw.start, draw.n, model, data)
    path = run.directory / "samples" / f"{name}.npz"
    with run.alone(f"samples-{name}"):
        remove_leftovers(path.parent, f"{escape(name)}.npz")
        settings = draw.settings(run, model, data)
        known = stored_samples(path)
        if known is not None and not overwrite:
            if known.note is None or not is_of(known.note, settings) or known.shape != (draw.n, *data.shape):
                raise ConfigError(
                    f"{known.path} is there already, {differences(known.note, settings)}: give another name, or "
                    "overwrite=true to replace it"
                )
            return known, {**known.note, "reused": True}
        block = block_size(draw.n, draw.batch_size) if draw.divides else draw.n
        size = per_file((numbers,), shard, block)
        check_memory(8 * min(draw.n, size) * numbers, f"n={draw.n}")
        # Those of an unfinished command are of the same settings, and so the same samples.
        keep = known is None or known.path == path
        writer = SampleWriter(run, name, settings, draw.n, size, keep=keep)
        missing = blocks(draw.n, block, cond, start, writer.done)
        figures, further = _fill(writer, model, data, draw, missing, progress, one=block >= draw.n)
        cost = {**settings, "step": run.step(), "nfe": writer.nfe, "seconds": writer.seconds, **figures}
        _picture(run, model, data, draw, cost, writer.first, name)
        written = writer.finish(cost, further)
        stored = stored_samples(written)
        assert stored is not None
        return stored, cost


def _check(draw: Draw, shard: int = SHARD) -> None:
    plain = {"n": draw.n, "seed": draw.seed, "batch_size": draw.batch_size, "shard": shard}
    for problem in option_problems("sample", plain):
        raise ConfigError(problem)


def _fill(
    writer: SampleWriter,
    model: RunModel,
    data: Data | DataInfo,
    draw: Draw,
    missing: Iterable[Block],
    progress: bool,
    one: bool,
) -> tuple[dict[str, Any], Rows]:
    """Draw the blocks that are missing, and hand them to the writer; figures and arrays of the samples as a whole."""
    source = draw.asked(model)
    if not isinstance(draw.sampler, Steered):
        check_sampler(model, draw.sampler)
    function = _Blocks(draw, source, tuple(data.shape), data.transform, progress=progress and one)
    before, began = writer.seconds, time.perf_counter()
    figures, further = {}, {}
    if writer.done:
        say(f"{writer.done} of {draw.n} samples are there already")
    try:
        with Progress(draw.n, "sampling", "sample", writer.done, shown=progress and not one) as bar:
            for drawn in each(function, missing):
                writer.add(drawn.rows, drawn.nfe, before + time.perf_counter() - began)
                figures, further = drawn.figures, drawn.further
                bar.update(len(drawn.rows["x"]))
    finally:
        writer.keep()
    return figures, further


def _conditions_of_rows(draw: Draw, block: Block) -> dict[str, np.ndarray]:
    """What is stored beside the samples of a block: conditions, or text in the place of its tokens."""
    if draw.text:
        texts = range(block.first, block.first + block.count)
        # As wide in every file, so that they can be joined.
        wide = max(map(len, draw.text))
        return {"text": np.array([draw.text[i % len(draw.text)] for i in texts], dtype=f"<U{wide}")}
    return {name: values.cpu().numpy() for name, values in block.cond.items()}


class _Drawn(NamedTuple):
    """Samples of a block: what is stored of each, their evaluations, and figures and arrays of the block as a whole."""

    rows: Rows
    nfe: int
    figures: dict[str, Any]
    further: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Blocks:
    """Draws blocks of samples, in this process or in another.

    Attributes:
        draw: Which samples are drawn.
        source: What they are drawn of.
        shape: Shape of one.
        transform: The map between values and model space.
        progress: Show a progress bar.
    """

    draw: Draw
    source: RunModel | ScoreModel
    shape: tuple[int, ...]
    transform: Transform
    progress: bool

    def __call__(self, block: Block) -> _Drawn:
        draw = self.draw
        rows, figures, further = (cast(dict[str, Any], {}) for _ in range(3))
        device = self.source.device
        cond = {name: values.to(device) for name, values in block.cond.items()}
        options: dict[str, Any] = {"seed": draw.seed, "progress": self.progress, "batch_size": block.count, **cond}
        options |= {"first": block.first} if draw.divides else {"batch_size": draw.batch_size}
        sampler, out = cast(Any, draw.sampler), cast(Any, None)
        if draw.cascade is not None:
            out, rows = draw.cascade(cast(ScoreModel, self.source), block.count, **options)
        elif block.start is None:
            out = sampler(self.source, (block.count, *self.shape), **options)
        else:
            out = edit(sampler, cast(ScoreModel, self.source), block.start, draw.strength, **options)
        if isinstance(draw.sampler, Steered):
            figures, further = out.figures(), out.arrays()
        raw = in_data_units(self.transform, out.x) if draw.cascade else self.transform.decode(out.x.cpu())
        rows = {"x": raw.numpy(), **_conditions_of_rows(draw, block), **rows}
        if draw.decoder is not None:
            rows["decoded"] = draw.decoder(raw)
        return _Drawn(rows, out.nfe, figures, further)


def _picture(
    run: Run,
    model: RunModel,
    data: Data | DataInfo,
    draw: Draw,
    cost: dict[str, Any],
    raw: Tensor,
    name: str,
) -> None:
    """Draw the samples, or the first of very many."""
    source, names = draw.asked(model), draw.asked_data(data).class_names
    classes = told_conditions(source, names, cost["label"], draw.condition)
    if draw.text:
        classes = f" by the text {listed([repr(text) for text in draw.text])}{_in_turn(draw.text)}"
    classes += "" if draw.cascade is None else draw.cascade.words()
    file = "" if name == "samples" else f", in {name}.npz" if len(raw) == draw.n else f", in {name}"
    guidance = "" if draw.guidance is None else f", guided by {draw.guidance}"
    if isinstance(draw.sampler, Steered):
        guidance = f", steered to {cost['steer']}"
    some = "" if len(raw) == draw.n else f" of {draw.n}"
    caption = (
        f"{len(raw)}{some} samples{classes}{guidance}, {cost['nfe']} evaluations of the network each, "
        f"seed {draw.seed}{file}."
    )
    in_turn = source.classes is not None and cost["label"] is None and not cost.keys() & {"condition", "text"}
    picture_of_samples(run, data, raw, name, caption, class_names(source, names) if in_turn else ())
    if draw.decoder is not None:
        draw.decoder.picture(run, raw, name, f"{caption} Decoded by {draw.decoder.name}.")


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
