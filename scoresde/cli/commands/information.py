"""Tells where a run spends its bits."""

from omegaconf import DictConfig

from scoresde.cli.commands.opened import data_of, model_of, open_run
from scoresde.cli.jobs import Outcome

__all__ = ["information_command"]


def information_command(config: DictConfig) -> Outcome:
    from scoresde.information.three_ways import WAYS
    from scoresde.numerics.html import with_error
    from scoresde.runs.information import information
    from scoresde.runs.information_results import sentences

    run = open_run(config)
    model, data = model_of(run, config), data_of(run)
    stem, note = information(run, model, data, config)
    given = " given the label" if note["settings"]["conditional"] else ""
    print(f"{note['settings']['split']}: n = {note['n']}, {note['unit']}{given}, {note['seconds']:.1f} s")
    for name, title in WAYS.items():
        found = note["ways"][name]
        print(f"  {title:<28}{with_error(found['mean'], float('nan') if found['stderr'] is None else found['stderr'])}")
    print("\n".join(sentences(note)))
    print(f"per sample: {run.directory / stem}.csv, results: {run.directory / stem}.json")
    print(f"pictures: {run.directory / 'samples' / stem}*.png")
    return Outcome([run.directory], note["ways"]["ode"]["mean"], f"{note['unit']}{given}")
