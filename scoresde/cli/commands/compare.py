"""Compares samplers on a run."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.cli.catalogue import conf_dir
from scoresde.cli.commands.features import chosen_features, published_of, warn_of_few
from scoresde.cli.commands.opened import check_condition, chosen_name, data_for, guided_by, in_sweep, open_run, score_of
from scoresde.cli.console import print_table

__all__ = ["compare_command"]


_FEW = 24  # rows of a table that still reads as a whole


def compare_command(config: DictConfig) -> None:
    from scoresde.compare import listing, table
    from scoresde.runs.compare import Presets, compare_run
    from scoresde.runs.published import RunFeatures

    check_condition(config)
    run = open_run(config)
    sources = HydraConfig.get().runtime.config_sources
    further = [Path(source.path) / "sampler" for source in sources if source.schema == "file"]
    presets = Presets(conf_dir() / "sampler", run.directory, run.allow, further)
    model = score_of(run, config, "compare")
    data, source = data_for(run, model, config, needs_own=True)
    guided, guidance = guided_by(run, model, config)
    label = chosen_name(("guidance",))
    published = published_of(run, model, data, config)
    features = None if published is None else RunFeatures(published, data.transform, tuple(data.shape))
    found: dict[str, Any] = {"source": source, "guided": guided, "guidance": guidance, "guidance_label": label}
    found |= {"features": features, "features_label": chosen_features()}
    frame, stem = compare_run(run, model, data, config, presets, config.progress, first=not in_sweep(), **found)
    names, steps = set(frame["sampler"]), set(frame["steps"].dropna())
    short = len(names) * max(len(steps), 1) <= _FEW
    head, *rows = listing(frame) if short else table(frame)
    print_table(head, rows)
    if features is not None:
        n = int(frame["n"].iloc[0])
        print(f"by {features.kind}, with {n} samples on each side")
        warn_of_few(features, n)
    print(f"all of them: {run.directory / stem}.csv, picture: {run.directory / 'samples' / stem}.png")
    problems = frame[frame["problem"] != ""]
    costly = problems["problem"].str.startswith("left out")
    if costly.any():
        print(f"{costly.sum()} of more evaluations are left out: raise max_nfe, or name them in samplers")
    failed = problems[~costly]
    if len(failed):
        first = failed.iloc[0]
        which = f"the first {first.sampler} at {first.steps} steps"
        raise ValueError(f"{len(failed)} of {len(frame)} cells failed, {which}: {first.problem}")
