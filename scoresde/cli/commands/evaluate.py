"""Measures the quality of samples."""

import math
from typing import Any

from omegaconf import DictConfig

from scoresde.cli.commands.cascades import cascade_label, check_cascade, stacked_runs
from scoresde.cli.commands.features import check_features, chosen_features, features_of, reference_lines, reference_of
from scoresde.cli.commands.lines import metric_lines, reused
from scoresde.cli.commands.opened import (
    check_condition,
    chosen_name,
    data_for,
    data_to_show,
    guided_by,
    in_sweep,
    model_of,
    open_run,
    sampler_of,
)
from scoresde.cli.console import UsageError
from scoresde.cli.jobs import Outcome

__all__ = ["evaluate_command"]


def evaluate_command(config: DictConfig) -> Outcome:
    from scoresde.runs.against import evaluate_against
    from scoresde.runs.evaluate import check_evaluation_size, evaluate
    from scoresde.runs.labels import label_index
    from scoresde.runs.results import Filing
    from scoresde.runs.sample import Draw

    check_features(config)
    run = open_run(config)
    sampler, model = sampler_of(run, config), model_of(run, config)
    guided, guidance = guided_by(run, model, config)
    asked, cascade = model if guided is None else guided, None
    check_cascade(config)
    if config.super is not None:
        cascade = stacked_runs(run, model, sampler, data_to_show(run), guided, config)
        last = cascade.stages[-1]
        run, model, sampler = last.run, last.model, last.sampler
    data, source = data_for(run, model, config, needs_own=True)
    index = label_index(asked, config.label, data.class_names)
    part = data if index is None else data.of_class(index)
    held_out = len(part.test)
    n = held_out if config.n is None else config.n
    if n > held_out and config.reference is None:
        what = "held-out samples" if source is None else f"samples in {source}"
        of = "" if index is None else f" of class {config.label}"
        raise UsageError(f"n is {n} but there are {held_out} {what}{of}: give n={held_out} or less")
    check_evaluation_size(min(n, len(part.train)) if config.reference is None else n)
    check_condition(config)
    most = min(n, math.prod(data.shape))
    if config.pca is not None and config.pca > most:
        raise UsageError(
            f"pca is {config.pca}, expected at most {most} components: the smaller of n and the dimensions"
        )
    features = features_of(run, model, data, config)
    values, name = (part.train, data.name) if source is None else (part.test, source)
    reference = reference_of(features, values, name, n, config)
    sampler_label, guidance_label = chosen_name(("sampler",)), chosen_name(("guidance",))
    filing = Filing(
        label=sampler_label,
        guidance=guidance_label,
        cascade=cascade_label(config),
        features=chosen_features(),
        reference="" if reference is None else reference.label,
        source=source,
        overwrite=config.overwrite,
        first=guided is None and cascade is None and index is None and config.condition is None and not in_sweep(),
    )
    further: dict[str, Any] = {"condition": config.condition, "cascade": cascade}
    draw = Draw(sampler, n, config.seed, config.label, config.batch_size, guided, guidance, **further)
    if reference is not None:
        key, entry = evaluate_against(
            run, model, data, draw, features, reference, progress=config.progress, filing=filing
        )
        print("\n".join(reference_lines(entry, reference)))
    else:
        options: dict[str, Any] = {"pca": config.pca, "likelihood": config.likelihood, "progress": config.progress}
        options["published"] = None if features.published is None else features
        key, entry, training = evaluate(run, model, data, draw, filing=filing, **options)
        print("\n".join(metric_lines(entry, training)))
    print(f"{key} in {run.directory / 'summary.json'}{reused(entry)}")
    metric = "frechet_distance" if reference is None else "frechet_to_reference"
    return Outcome([run.directory], entry["metrics"][metric]["value"], metric)
