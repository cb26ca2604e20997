"""Tells where a run spends its bits."""

from typing import Any

from omegaconf import DictConfig, ListConfig

from scoresde.cli.commands.opened import data_of, model_of, open_runs
from scoresde.cli.jobs import Outcome

__all__ = ["information_command"]


def information_command(config: DictConfig) -> Outcome:
    from scoresde.information.three_ways import WAYS
    from scoresde.numerics.html import with_error
    from scoresde.runs.information import information
    from scoresde.runs.information_results import sentences

    run, *others = open_runs(config)
    model, data = model_of(run, config), data_of(run)
    contenders = _contenders(run, model, data, others, config)
    stem, note = information(run, model, data, config)
    given = " given the label" if note["settings"]["conditional"] else ""
    unit = "log-density in nats" if note["unit"] == "nats" else note["unit"]
    print(f"{note['settings']['split']}: n = {note['n']}, {unit}{given}, {note['seconds']:.1f} s")
    for name, title in WAYS.items():
        found = note["ways"][name]
        print(f"  {title:<28}{with_error(found['mean'], float('nan') if found['stderr'] is None else found['stderr'])}")
    print("\n".join(sentences(note)))
    print(f"per sample: {run.directory / stem}.csv, results: {run.directory / stem}.json")
    print(f"pictures: {run.directory / 'samples' / stem}*.png")
    for other in contenders[1:]:
        _against(contenders[0], other, config)
    return Outcome([run.directory], note["ways"]["ode"]["mean"], f"{note['unit']}{given}")


def _contenders(run: Any, model: Any, data: Any, others: list[Any], config: DictConfig) -> list[Any]:
    """The run and those that it is compared with, which are checked: `others`, and those of `against`."""
    from scoresde.report.reading import find_runs
    from scoresde.runs.directory import Run
    from scoresde.runs.information_against import check_against, runs_at
    from scoresde.runs.paired import Contender, names_of

    against = config.against
    texts = [str(text) for text in against] if isinstance(against, ListConfig) else [str(against or "")]
    places = runs_at([*(str(other.directory) for other in others), *filter(None, texts)], find_runs, run.directory)
    others = [Run.open(place, list(config.allow), list(config.accept)) for place in places]
    names = names_of([run, *others])
    made = [Contender(names[0], run, model, data)]
    for name, other in zip(names[1:], others, strict=True):
        made.append(Contender(name, other, model_of(other, config), other.data()))
    if others:
        check_against(made, config.split or "test", config.n)
    return made


def _against(first: Any, other: Any, config: DictConfig) -> None:
    """Compare with another run, and print what comes of it."""
    from scoresde.runs.information_against import information_against
    from scoresde.runs.information_results import sentences_against

    stem, note = information_against(first, other, config.split or "test", config, first.run.make("sampler"))
    print()
    print("\n".join(sentences_against(note)))
    print(f"per sample: {first.run.directory / stem}.csv, results: {first.run.directory / stem}.json")
    print(f"picture: {first.run.directory / 'samples' / stem}.png")
