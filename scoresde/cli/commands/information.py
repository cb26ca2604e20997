"""Tells where a run spends its bits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from scoresde.cli.commands.opened import data_of, open_runs, score_of
from scoresde.cli.jobs import Outcome

__all__ = ["information_command"]


def information_command(config: DictConfig) -> Outcome:
    from scoresde.information.three_ways import WAYS
    from scoresde.numerics.html import with_error
    from scoresde.runs.information import information
    from scoresde.runs.information_results import sentences

    run, *others = open_runs(config)
    model, data = score_of(run, config, "information"), data_of(run)
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
    _say_kept(note)
    for other in contenders[1:]:
        _against(contenders[0], other, config)
    return Outcome([run.directory], note["ways"]["ode"]["mean"], f"{note['unit']}{given}")


def _contenders(run: Any, model: Any, data: Any, others: list[Any], config: DictConfig) -> list[Any]:
    """The run and those that it is compared with, which are checked: `others`, and those of `against`.

    Runs in a folder that cannot be compared with it are left out.
    """
    from scoresde.options.errors import ConfigError
    from scoresde.progress import say
    from scoresde.report.reading import find_runs
    from scoresde.runs.directory import Run
    from scoresde.runs.information_against import check_against, runs_at
    from scoresde.runs.paired import Contender, names_of

    against = config.against
    texts = [str(text) for text in against] if isinstance(against, ListConfig) else [str(against or "")]
    given = [other.directory for other in others]
    named = {Path(text).resolve() for text in [*texts, *map(str, given)]}
    left_out: list[str] = []

    def fits(place: Path, make: Callable[[], Any]) -> Any:
        """What is made of a run; None where it does not fit and is one of a folder, which may hold others as well."""
        try:
            return make()
        except ValueError as error:
            if place.resolve() in named:
                raise
            left_out.append(str(error))
            return None

    def compared(name: str, other: Any) -> Contender:
        contender = Contender(name, other, score_of(other, config, "information"), other.data())
        check_against([first, contender], config.split or "test", config.n)
        return contender

    places = runs_at([*map(str, given), *filter(None, texts)], find_runs, run.directory)
    opened = [fits(p, partial(Run.open, p, list(config.allow), list(config.accept))) for p in places]
    others = [other for other in opened if other is not None]
    names = names_of([run, *others])
    first = Contender(names[0], run, model, data)
    made = [
        fits(other.directory, partial(compared, name, other)) for name, other in zip(names[1:], others, strict=True)
    ]
    found = [contender for contender in made if contender is not None]
    if left_out and not found:
        raise ConfigError(f"against={against} has no run to compare {run.directory} with: {left_out[0]}")
    for reason in left_out:
        say(f"left out: {reason}")
    return [first, *found]


def _against(first: Any, other: Any, config: DictConfig) -> None:
    """Compare with another run, and print what comes of it."""
    from scoresde.runs.information_against import information_against
    from scoresde.runs.information_results import sentences_against

    stem, note = information_against(first, other, config.split or "test", config, first.run.make("sampler"))
    print()
    print("\n".join(sentences_against(note)))
    print(f"per sample: {first.run.directory / stem}.csv, results: {first.run.directory / stem}.json")
    print(f"picture: {first.run.directory / 'samples' / stem}.png")
    _say_kept(note)


def _say_kept(note: dict[str, Any]) -> None:
    """Say of results of fewer samples than there are already that these stay."""
    if kept := note.get("kept"):
        print(f"results, pictures and report stay those of {kept} samples, with the same settings")
