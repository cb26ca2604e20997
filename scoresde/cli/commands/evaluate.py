"""Measures the quality of samples."""

import math
from typing import Any

from omegaconf import DictConfig

from scoresde.cli.commands.lines import metric_lines, reused
from scoresde.cli.commands.opened import chosen_name, data_for, guided_by, in_sweep, model_of, open_run, sampler_of
from scoresde.cli.console import UsageError
from scoresde.cli.jobs import Outcome

__all__ = ["evaluate_command"]


def evaluate_command(config: DictConfig) -> Outcome:
    from scoresde.runs.evaluate import check_evaluation_size, evaluate
    from scoresde.runs.results import Filing
    from scoresde.runs.sample import Draw

    run = open_run(config)
    sampler, model = sampler_of(run, config), model_of(run, config)
    data, source = data_for(run, model, config, needs_own=True)
    n = len(data.test) if config.n is None else config.n
    if n > len(data.test):
        what = "held-out samples" if source is None else f"samples in {source}"
        raise UsageError(f"n is {n} but there are {len(data.test)} {what}: give n={len(data.test)} or less")
    check_evaluation_size(min(n, len(data.train)))
    most = min(n, math.prod(data.shape))
    if config.pca is not None and config.pca > most:
        raise UsageError(
            f"pca is {config.pca}, expected at most {most} components: the smaller of n and the dimensions"
        )
    guided, guidance = guided_by(run, model, config)
    sampler_label, guidance_label = chosen_name(("sampler",)), chosen_name(("guidance",))
    filing = Filing(
        label=sampler_label,
        guidance=guidance_label,
        source=source,
        overwrite=config.overwrite,
        first=guided is None and not in_sweep(),
    )
    draw = Draw(sampler, n, config.seed, None, config.batch_size, guided, guidance)
    options: dict[str, Any] = {"pca": config.pca, "likelihood": config.likelihood, "progress": config.progress}
    key, entry, reference = evaluate(run, model, data, draw, filing=filing, **options)
    print("\n".join(metric_lines(entry, reference)))
    print(f"{key} in {run.directory / 'summary.json'}{reused(entry)}")
    value = entry["metrics"]["frechet_distance"]["value"]
    return Outcome([run.directory], value, "frechet_distance")
