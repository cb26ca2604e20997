"""Computes log-likelihoods."""

from omegaconf import DictConfig

from scoresde.cli.commands.lines import figure, likelihood_line
from scoresde.cli.commands.opened import data_for, in_sweep, model_of, open_run
from scoresde.cli.jobs import Outcome

__all__ = ["likelihood_command"]


def likelihood_command(config: DictConfig) -> Outcome:
    from scoresde.runs.likelihood import likelihood
    from scoresde.runs.results import Filing
    from scoresde.training.environment import processes

    run = open_run(config)
    sharing = processes()
    if config.device is None and sharing.num_processes > 1:
        config.device = str(sharing.device)
    model = model_of(run, config)
    data, source = data_for(run, model, config, needs_own=False)
    split = config.split or ("test" if source is None else "all")
    entry = likelihood(
        run,
        model,
        data,
        split,
        config.n,
        config,
        config.progress,
        sharing,
        Filing(str(config.name or ""), source=source, overwrite=config.overwrite, first=not in_sweep()),
    )
    if sharing.is_main_process:
        print(likelihood_line(entry))
        print(f"per sample: {run.directory / entry['file']}")
    return Outcome([run.directory], *figure(entry))
