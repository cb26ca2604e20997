"""Draws samples."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from scoresde.cli.commands.cascades import cascade_label, check_cascade, stacked_runs
from scoresde.cli.commands.lines import reused, steered_lines
from scoresde.cli.commands.opened import (
    check_condition,
    chosen_name,
    data_of,
    data_to_show,
    guided_by,
    model_of,
    open_run,
    sampler_of,
    steered_by,
    steering_of,
)
from scoresde.cli.console import UsageError

if TYPE_CHECKING:
    from scoresde.runs.chains import RunModel
    from scoresde.runs.decoders import Decoder

__all__ = ["sample_command"]


def sample_command(config: DictConfig) -> None:
    from scoresde.runs.conditions import other_conditions
    from scoresde.runs.results import digest_of, is_of
    from scoresde.runs.sample import Draw, draw_samples
    from scoresde.runs.sample_files import stored_samples

    run = open_run(config)
    steering = steering_of(run, config)
    plain = None if steering is not None else sampler_of(run, config)
    model = model_of(run, config)
    sampler = plain or steered_by(steering, model, config)
    texts = texts_of(config)
    given = config.condition is not None or bool(texts)
    held_out = other_conditions(model) and not given and run.has_data
    data = data_of(run) if held_out else data_to_show(run)
    guided = guided_by(run, model, config)
    cascade = None
    check_cascade(config)
    if config.super is not None:
        cascade = stacked_runs(run, model, sampler, data, guided[0], config)
        last = cascade.stages[-1]
        run, model, sampler, data = last.run, last.model, last.sampler, data_to_show(last.run)
    if config.start is not None and not Path(config.start).is_file():
        raise UsageError(f"start={config.start} does not exist; give an npz file with an array x, as samples have it")
    decoder = _decoder_of(config, model)
    check_condition(config)
    if config.start is None and chosen_name(("strength",)):
        raise UsageError(f"strength={config.strength} is without effect: give start=FILE.npz, data to begin from, too")
    if texts and (config.condition is not None or config.label is not None):
        other = "condition" if config.condition is not None else "label"
        raise UsageError(f"text and {other} both say what to draw: give one of them")
    further = {"text": texts, "condition": config.condition, "start": config.start, "strength": config.strength}
    further["cascade"] = cascade
    further["decoder"] = decoder
    draw = Draw(sampler, config.n, config.seed, config.label, config.batch_size, *guided, **further)
    name = str(config.name or "")
    if not name:
        # Samples of other weights, for example, keep that name.
        name, settings = _sample_name(config), draw.settings(run, model, data)
        known = stored_samples(run.directory / "samples" / f"{name}.npz")
        if known is not None and not is_of(known.note, settings) and not config.overwrite:
            name = f"{name}-{digest_of(settings)}"
    options = {"overwrite": config.overwrite, "progress": config.progress, "shard": config.shard}
    stored, cost = draw_samples(run, model, data, draw, name=name, **options)
    each = "each" if steering is None else f"of each of {cost['groups'] * cost['particles']} particles"
    print(
        f"{cost['n']} samples{reused(cost)}, {cost['nfe']} evaluations {each}, {cost['seconds']:.1f} s: "
        f"{stored.path}{f', {len(stored.files)} files' if stored.files else ''}"
    )
    if steering is not None:
        print("\n".join(steered_lines(cost, steering.steps)))


def _decoder_of(config: DictConfig, model: "RunModel") -> "Decoder | None":
    """The decoder that was asked for, by its name; None for none."""
    from scoresde.config.targets import find_own
    from scoresde.runs.decoders import Decoder

    if config.decoder is None:
        return None
    name = str(config.decoder)
    return Decoder.of(name, find_own(name, list(config.allow)), model.device)


def texts_of(config: DictConfig) -> tuple[str, ...]:
    """The sentences to draw by: none, one or several."""
    text = config.text
    return () if text is None else (str(text),) if not isinstance(text, ListConfig) else tuple(map(str, text))


def _sample_name(config: DictConfig) -> str:
    """File name from choices, conditions, n and seed, so that no job of a sweep writes another's file."""
    keys = ("sampler", "label", "condition", "text", "negative", "guidance", "steer", "start", "strength", "decoder")
    return "-".join(filter(None, (cascade_label(config), chosen_name(keys), f"n{config.n}", f"seed{config.seed}")))
