"""Computes log-likelihoods, of one run or of several that are compared."""

import math
from typing import Any

from omegaconf import DictConfig

from scoresde.cli.commands.lines import figure, likelihood_line
from scoresde.cli.commands.opened import data_for, in_sweep, model_of, open_runs
from scoresde.cli.console import print_table
from scoresde.cli.jobs import Outcome

__all__ = ["likelihood_command"]


def likelihood_command(config: DictConfig) -> Outcome:
    from scoresde.runs.likelihood import likelihood
    from scoresde.runs.paired import Contender, check_alike, compare_stored, names_of
    from scoresde.runs.results import Filing

    runs = open_runs(config)
    contenders, source = [], None
    for name, run in zip(names_of(runs), runs, strict=True):
        model = model_of(run, config)
        data, source = data_for(run, model, config, needs_own=False)
        contenders.append(Contender(name, run, model, data))
    split = config.split or ("test" if source is None else "all")
    filing = Filing(str(config.name or ""), source=source, overwrite=config.overwrite, first=not in_sweep())
    if config.paired:
        check_alike(contenders, split, config.n, filing)
    entries = []
    for name, run, model, data in contenders:
        entry = likelihood(run, model, data, split, config.n, config, config.progress, filing)
        entries.append(entry)
        print(f"{name}: {likelihood_line(entry)}" if config.paired else likelihood_line(entry))
        print(f"per sample: {run.directory / entry['file']}")
    if not config.paired:
        return Outcome([run.directory for run in runs], *figure(entries[0]))
    _print_compared(compare_stored(contenders, entries, config, filing), runs[0])
    return Outcome([run.directory for run in runs])


def _print_compared(compared: Any, run: Any) -> None:
    """Print a row for each run, what it differs by from the first, and where all of it is."""
    from scoresde.numerics.html import with_error
    from scoresde.numerics.means import mean_and_error

    means = []
    for values, solver in zip(compared.values, compared.shared, strict=True):
        middle, error = mean_and_error(values)
        means.append(with_error(middle, math.hypot(error, solver)))
    rows = [[compared.names[0], means[0], "", "", "", ""]]
    for name, mean, difference in zip(compared.names[1:], means[1:], compared.differences, strict=True):
        total = with_error(difference.total, difference.total_stderr)
        signs = f"{difference.more} more, {difference.less} less"
        rows.append([name, mean, str(difference), total, signs, f"{difference.p_value:.2g}"])
    print()
    print_table(["run", compared.unit, f"less {compared.names[0]}", "in sum", "samples", "sign test, p"], rows)
    for verdict, difference in zip(compared.verdicts, compared.differences, strict=True):
        shorter = "" if (gain := difference.gain) is None else f"; unpaired, the error would be {gain:.2g} times that"
        print(f"{verdict} (n = {len(difference)}{shorter})")
    print(f"compared: {run.directory / compared.stem}.csv and .json")
    print(f"picture: {run.directory / 'samples' / compared.stem}.png")
