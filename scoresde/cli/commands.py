"""What each command does with its configuration."""

import itertools
import math
import re
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from scoresde.cli.catalogue import conf_dir, groups
from scoresde.cli.console import UsageError, nearest, print_table
from scoresde.cli.networks import DEFAULT, fit_network
from scoresde.cli.overrides import parsed
from scoresde.cli.settings import apply_changes, declared, with_own
from scoresde.cli.sweeps import Outcome, note_run, started_again, unfinished
from scoresde.options.moved import with_current_names
from scoresde.progress import note

__all__ = ["TASKS"]


def _train(config: DictConfig) -> Outcome:
    """Train a run, or `repeats` of them one after the other with seeds that follow each other."""
    repeats = config.repeats
    if repeats > 1 and config.run is not None:
        raise UsageError("repeats are of new runs: leave out run")
    outcomes = []
    for seed in range(config.training.seed, config.training.seed + repeats):
        config.training.seed = seed
        outcomes.append(_train_one(config))
        if repeats > 1:
            config.run = None
    values = [o.value for o in outcomes if o.value is not None]
    mean = sum(values) / len(values) if values else None
    skipped = all(o.skipped for o in outcomes)
    return Outcome([run for o in outcomes for run in o.runs], mean, outcomes[0].unit, skipped)


def _train_one(config: DictConfig) -> Outcome:
    run, made, data = _run_to_train(config)
    try:
        return _train_run(run, config, data)
    finally:
        for folder in made:
            with suppress(OSError):  # unless something was written
                folder.rmdir()


def _train_run(run: Any, config: DictConfig, data: Any) -> Outcome:
    from scoresde.config.targets import instantiate
    from scoresde.runs.train import train

    with open_dict(config):
        config.run = str(run.directory)  # for the message after an interrupt
    if _in_sweep():
        note_run(run.directory)
        _check_metric(config)
    value, unit = _value(run, config.metric)
    if run.summary().get("finished") and not _asks_for_more(run):
        print(f"{run.directory} is finished: nothing to do")
        if config.run is not None and _names_run():
            print("more steps: training.steps=N; other figures: evaluation.KEY=VALUE, scoresde likelihood or evaluate")
        return Outcome([run.directory], value, unit, skipped=True)
    began = time.perf_counter()
    _name_group(run.config)
    loggers = [instantiate(run.config, key, run.allow) for key in _logger_keys(run.config)]
    options = {"progress": config.progress, "restart": config.restart, "data": data, "device": config.device}
    if not train(run, loggers, **options):
        return Outcome([run.directory])
    _print_summary(run, time.perf_counter() - began)
    value, unit = _value(run, config.metric)
    return Outcome([run.directory], value, unit)


def _in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _names_run() -> bool:
    return any(o.startswith("run=") for o in HydraConfig.get().overrides.task)


def _asks_for_more(run: Any) -> bool:
    """Whether a finished run was named with more steps, or with figures or a logger that it does not have."""
    if not _names_run():
        return False
    before = type(run).open(run.directory, run.allow).config
    _fill_evaluation(before)
    if run.config.training.steps > run.summary().get("training", {}).get("steps", 0):
        return True
    return any(run.config.get(key) != before.get(key) for key in ("evaluation", "sampler", "logger"))


def _fill_evaluation(config: DictConfig) -> None:
    """Add the options that the configuration of an older version has not."""
    if "evaluation" in config:
        for key, value in OmegaConf.load(conf_dir() / "evaluation" / "default.yaml").items():
            if key not in config.evaluation:
                config.evaluation[key] = value


def _name_group(config: DictConfig) -> None:
    """The runs of a sweep are a group, for a logger that knows of groups."""
    for node in (OmegaConf.select(config, key) for key in _logger_keys(config)) if _in_sweep() else ():
        if "group" in node and node.group is None:
            node.group = Path(HydraConfig.get().sweep.dir).name


def _logger_keys(config: DictConfig) -> list[str]:
    """Keys of the configuration's loggers: by name, or the one of an older version or a user's own file."""
    node = config.get("logger") or {}
    if "_target_" in node:
        return ["logger"]
    for name, value in node.items():
        if not (OmegaConf.is_dict(value) and "_target_" in value):
            raise UsageError(f"logger.{name} has no _target_: settings of a logger are logger.NAME.KEY=VALUE")
    return [f"logger.{name}" for name in node]


def _value(run: Any, metric: str) -> tuple[float | None, str]:
    """What a sweeper optimises, lower being better for a likelihood, and its name.

    Raises:
        UsageError: no such metric.
    """
    from scoresde.metrics.evaluate import METRICS

    summary = run.summary()
    if metric == "likelihood":
        entry = summary.get("likelihood", {})
        if not entry:
            return None, "likelihood"
        value, unit = _figure(entry)
        # A sweeper minimises.
        return (value, unit) if entry.get("bits_per_dim") is not None else (-value, f"−{unit}")
    if metric not in METRICS:
        known = ("likelihood", *METRICS)
        raise UsageError(f"metric is {metric!r}{nearest(str(metric), known)}; expected one of {', '.join(known)}")
    return summary.get("samples", {}).get("metrics", {}).get(metric, {}).get("value"), metric


def _check_metric(config: DictConfig) -> None:
    """Refuse to train for a sweeper that will be told nothing."""
    if HydraConfig.get().sweeper._target_.endswith("BasicSweeper"):
        return
    needed = "likelihood" if config.metric == "likelihood" else "samples"
    if config.evaluation[needed] == 0:
        raise UsageError(f"metric={config.metric} needs evaluation.{needed}, which is 0: leave it out")


def _run_to_train(config: DictConfig) -> tuple[Any, list[Path], Any]:
    """The run to start or to go on with, the folders made for it, and its data if loaded to choose the network."""
    from scoresde.runs.directory import Run, check_name, config_hash

    allow = list(config.allow)
    if config.run is not None:
        run = Run.open(str(config.run), allow, list(config.accept))
        _fill_evaluation(run.config)
        apply_changes(run.config, config, parsed(HydraConfig.get().overrides.task))
        return run, [], None
    plain: Any = with_current_names(OmegaConf.to_container(config, resolve=True))
    settings, _ = declared("train")  # belong to the command line, not to the run
    body = OmegaConf.create({k: v for k, v in plain.items() if k not in settings})
    runs, data = Path(str(config.runs)), None
    if HydraConfig.get().runtime.choices.get("network") == DEFAULT:
        data = _fit_network(body, Run(runs / "not yet named", body, allow))
    identity = config_hash(body)
    name = str(config.name or f"{_choices()}-{identity}")
    check_name(name)
    if started_again() or (_in_sweep() if config.resume is None else config.resume):
        # Whatever the choices are called that lead to the same configuration.
        named = runs.glob(f"{name}*" if config.name else f"*-{identity}*")
        same = [d for d in sorted(named, key=_place) if (d / "config.yaml").is_file()]
        same = [d for d in same if config_hash(Run.open(d, allow).config) == identity]
        if same:
            return Run(same[-1], body, allow), [], data
    directory, made = _new_directory(runs, name)
    return Run(directory, body, allow), made, data


_known_shapes: dict[str, tuple[tuple[int, ...], str]] = {}  # and names of data; for the jobs of a sweep


def _fit_network(body: DictConfig, run: Any) -> Any:
    """Settle the default network of a new run; returns its data if they had to be loaded for that."""
    key, data = OmegaConf.to_yaml(body.data, sort_keys=True), None
    if key not in _known_shapes:
        data = run.data()
        _known_shapes[key] = data.shape, data.name
    overrides = (str(o.key_or_group).split(".") for o in parsed(HydraConfig.get().overrides.task))
    fit_network(body, *_known_shapes[key], {path[1] for path in overrides if path[0] == "network" and len(path) > 1})
    return data


def _new_directory(runs: Path, name: str) -> tuple[Path, list[Path]]:
    """Make the next directory of a name that is free, so that nobody else takes it, and the folders above it.

    Returns:
        The directory, the same in all processes of the command, and the folders that were made, the innermost first.
    """
    from scoresde.training.environment import processes

    sharing = processes()
    made = [path for path in (runs, *runs.parents) if not path.exists()]
    found: list[Any] = [None]
    for number in itertools.count(1) if sharing.is_main_process else ():
        directory = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            directory.mkdir(parents=True)
            found, made = [directory], [directory, *made]
            break
    if sharing.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    return found[0], made if sharing.is_main_process else []


def _place(run: Path) -> tuple[int, str]:
    """run-9 before run-10."""
    return len(run.name), run.name


def _choices() -> str:
    """A name from what was chosen on the command line: experiment and data, then the other groups in their order."""
    choices = HydraConfig.get().runtime.choices
    chosen = {o.lstrip("+~").partition("=")[0] for o in HydraConfig.get().overrides.task}
    experiment = choices.get("experiment")
    parts = [str(experiment)] if experiment else []
    if not experiment or "data" in chosen:  # an experiment has data of its own
        parts.append(str(choices["data"]))
    named = [choices[g] for g in choices if g in chosen and g not in ("experiment", "data")]
    # A list of choices is text, as that of loggers: ['wandb', 'tensorboard'].
    parts += ["-".join(re.findall(r"[\w.+-]+", str(choice))) for choice in named]
    return "-".join(parts)[:80]


def _open(config: DictConfig) -> Any:
    from scoresde.runs.directory import Run

    if OmegaConf.is_missing(config, "run"):
        raise UsageError("run is missing: give run=DIR, a directory that `scoresde train` wrote")
    run = Run.open(str(config.run), list(config.allow), list(config.accept))
    if config.allow:
        run.keep_allowed()
    return run


def _data(run: Any) -> Any:
    from scoresde.training.environment import limit_threads

    data = run.data()
    limit_threads(data.shape)
    return data


def _data_or_info(run: Any) -> Any:
    """The facts that the run keeps of its data, which are enough to draw samples; an older run's data are loaded."""
    from scoresde.training.environment import limit_threads

    info = run.info()
    if info is None:
        return _data(run)
    limit_threads(info.shape)
    return info


def _data_to_show(run: Any) -> Any:
    """The same, with points in the plane loaded where they are there: pictures show them beside samples."""
    info = _data_or_info(run)
    if info.shape != (2,):
        return info
    with suppress(ValueError, OSError):
        return _data(run)
    return info


def _data_for(run: Any, model: Any, config: DictConfig, needs_own: bool) -> tuple[Any, str | None]:
    """The run's data, or those that are given in place of its test data, and where the latter are from.

    With those the run's own data are loaded only if the command `needs_own`.
    """
    from scoresde.data import DataInfo
    from scoresde.runs.given import given_data

    info = None if config.get("data") is None else run.info()
    if info is not None and not needs_own:
        return given_data(info, config, model.statistics, model.classes is not None, None, run.allow)
    data = _data(run)
    if config.get("data") is None:
        return data, None
    own = data if needs_own else None
    return given_data(info or DataInfo.of(data), config, model.statistics, model.classes is not None, own, run.allow)


def _model(run: Any, config: DictConfig) -> Any:
    import torch

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return run.model().to(device)


def _sampler(run: Any, config: DictConfig) -> Any:
    from scoresde.config.targets import instantiate

    if config.get("sampler") is None:
        return run.make("sampler")
    if HydraConfig.get().runtime.choices.get("sampler") is None:
        config.sampler = with_own(run.config, "sampler", config)
    for part in ("solver", "grid"):
        # A tuned file is the run's own if none is given.
        if OmegaConf.select(config, f"sampler.{part}.path", default=0) is None:
            OmegaConf.update(config, f"sampler.{part}.path", str(run.directory))
    return instantiate(config, "sampler", run.allow)


def _sample(config: DictConfig) -> None:
    from scoresde.runs.labels import label_index
    from scoresde.runs.results import digest_of, is_of
    from scoresde.runs.sample import sample, sample_settings, saved_samples

    run = _open(config)
    sampler, model, data = _sampler(run, config), _model(run, config), _data_to_show(run)
    name = str(config.name or "")
    if not name:
        # Those of other weights, say, keep theirs.
        label = label_index(model, config.label, data.class_names)
        name, settings = _sample_name(config), sample_settings(run, sampler, config.n, config.seed, label)
        known = saved_samples(run.directory / "samples" / f"{name}.npz")
        if known is not None and not is_of(known[1], settings) and not config.overwrite:
            name = f"{name}-{digest_of(settings)}"
    _, cost = sample(
        run,
        model,
        data,
        sampler,
        config.n,
        seed=config.seed,
        label=config.label,
        batch_size=config.batch_size,
        progress=config.progress,
        name=name,
        overwrite=config.overwrite,
    )
    print(
        f"{cost['n']} samples{_reused(cost)}, {cost['nfe']} evaluations each, {cost['seconds']:.1f} s: "
        f"{run.directory / 'samples' / name}.npz"
    )


def _reused(entry: dict[str, Any]) -> str:
    return ", there already" if entry.get("reused") else ""


def _sample_name(config: DictConfig) -> str:
    """n and the seed, after the label and what was chosen of the sampler: no job of a sweep writes another's file."""
    return "-".join(filter(None, (_chosen(("sampler", "label")), f"n{config.n}", f"seed{config.seed}")))


def _chosen(keys: tuple[str, ...]) -> str:
    """What was chosen of these groups and keys on the command line, as part of a file's name."""
    parts: list[str] = []
    for override in parsed(HydraConfig.get().overrides.task):
        key, value = str(override.key_or_group), str(override.input_line).partition("=")[2]
        if key.partition(".")[0] not in keys or value == "null":
            continue
        if key in groups():
            parts.insert(0, value)
        else:
            parts.append(f"{key.rpartition('.')[2]}{value}")
    chosen = "-".join(parts)
    plain = re.sub(r"[^\w.+-]+", "_", chosen)[:80].strip("_.")
    return plain if plain == chosen else f"{plain}-{zlib.crc32(chosen.encode()):08x}"


def _likelihood(config: DictConfig) -> Outcome:
    from scoresde.runs.likelihood import likelihood
    from scoresde.training.environment import processes

    run = _open(config)
    sharing = processes()
    if config.device is None and sharing.num_processes > 1:
        config.device = str(sharing.device)
    model = _model(run, config)
    data, source = _data_for(run, model, config, needs_own=False)
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
        str(config.name or ""),
        source=source,
        overwrite=config.overwrite,
        first=not _in_sweep(),
    )
    if sharing.is_main_process:
        print(_likelihood_line(entry))
        print(f"per sample: {run.directory / entry['file']}")
    return Outcome([run.directory], *_figure(entry))


def _figure(entry: dict[str, Any]) -> tuple[float, str]:
    """The figure of a likelihood's entry, and its unit."""
    value, unit = (entry["nats"], "nats") if entry["bits_per_dim"] is None else (entry["bits_per_dim"], "bits/dim")
    return value, f"{unit} given the label" if entry.get("conditional") else unit


def _evaluate(config: DictConfig) -> Outcome:
    from scoresde.runs.evaluate import check_evaluation_size, evaluate

    run = _open(config)
    sampler, model = _sampler(run, config), _model(run, config)
    data, source = _data_for(run, model, config, needs_own=True)
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
    key, entry, reference = evaluate(
        run,
        model,
        data,
        sampler,
        n,
        seed=config.seed,
        pca=config.pca,
        batch_size=config.batch_size,
        progress=config.progress,
        label=_chosen(("sampler",)),
        source=source,
        overwrite=config.overwrite,
        first=not _in_sweep(),
    )
    print("\n".join(_metric_lines(entry, reference)))
    print(f"{key} in {run.directory / 'summary.json'}{_reused(entry)}")
    value = entry["metrics"]["frechet_distance"]["value"]
    return Outcome([run.directory], value, "frechet_distance")


def _tune(config: DictConfig) -> None:
    from scoresde.runs.directory import check_name
    from scoresde.runs.tune import tune_run

    run = _open(config)
    began = time.perf_counter()
    check_name(f"tuned-{config.steps}")
    with run.alone(f"tuned-{config.steps}"):
        made, path = tune_run(run, _model(run, config), _data_or_info(run), config)
    print(
        f"{made.evaluations} evaluations: error {made.error:.3g} on starts kept for judging, {made.before:.3g} before "
        f"({made.starts} starts, {time.perf_counter() - began:.0f} s): {path}"
    )


_FEW = 24  # lines of a table that is read as a whole


def _compare(config: DictConfig) -> None:
    from scoresde.compare.frame import listing, table
    from scoresde.runs.compare import Presets, compare_run

    run = _open(config)
    sources = HydraConfig.get().runtime.config_sources
    further = [Path(source.path) / "sampler" for source in sources if source.schema == "file"]
    presets = Presets(conf_dir() / "sampler", run.directory, run.allow, further)
    model = _model(run, config)
    data, source = _data_for(run, model, config, needs_own=True)
    frame, stem = compare_run(run, model, data, config, presets, config.progress, source=source, first=not _in_sweep())
    names, steps = set(frame["sampler"]), set(frame["steps"].dropna())
    short = len(names) * max(len(steps), 1) <= _FEW
    head, *rows = listing(frame) if short else table(frame)
    print_table(head, rows)
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


def _dequantise(config: DictConfig) -> None:
    from scoresde.runs.dequantise import dequantise

    run = _open(config)
    began = time.perf_counter()
    with run.alone("dequantisation"):
        entry, path = dequantise(run, _model(run, config), _data(run), config)
    kept = str(path) if path is not None else "no better than uniform, nothing is kept"
    print(
        f"bits/dim {entry['variational']:.4f}, {entry['uniform']:.4f} with uniform dequantisation, gain "
        f"{entry['gain']:.4f} ± {entry['stderr']:.4f} on {entry['n']} training images kept to judge by "
        f"({time.perf_counter() - began:.0f} s): {kept}"
    )


def _report(config: DictConfig) -> None:
    from scoresde.report import write_report
    from scoresde.runs.pictures import pictures

    if OmegaConf.is_missing(config, "run"):
        raise UsageError("run is missing: give a run directory, or a folder of runs: scoresde report DIR")
    directory = Path(str(config.run))
    if (directory / "config.yaml").is_file():
        run = _open(config)
        run.check_writable()
        if config.pictures:
            pictures(run, _model(run, config), _data(run))
    elif config.pictures:
        raise UsageError(f"pictures=true is for one run, {directory} is none")
    page = write_report(directory)
    for line in unfinished(directory):
        print(f"scoresde: {line}", file=sys.stderr)
    print(page)


TASKS: dict[str, Callable[[DictConfig], Outcome | None]] = {
    "train": _train,
    "sample": _sample,
    "likelihood": _likelihood,
    "compare": _compare,
    "evaluate": _evaluate,
    "tune": _tune,
    "dequantise": _dequantise,
    "report": _report,
}


# -- summaries ------------------------------------------------------------------------------------------


def _likelihood_line(entry: dict[str, Any]) -> str:
    given = " given the label" if entry.get("conditional") else ""
    error = "" if entry["stderr"] is None else f" ± {entry['stderr']:.4f}"
    if entry["bits_per_dim"] is None:
        error = "" if entry["stderr"] is None else f" ± {entry['stderr']:.3f}"
        value = f"{entry['nats']:.3f}{error} nats{given}"
    else:
        value = (
            f"{entry['bits_per_dim']:.4f}{error} bits/dim{given} ({entry['dequantisation']} dequantisation, "
            f"{entry['decoder']} at t_min = {entry['t_min']:g}, draws = {entry['draws']}, {entry['bound']})"
        )
        if entry.get("elbo") is not None:
            value += f", ELBO {entry['elbo']:.4f} bits/dim{given}"
    reused = f", {entry['reused']} of them there already" if entry["reused"] else ""
    source = f" of {entry['source']}" if entry.get("source") else ""
    return (
        f"{entry['split']}{source}: {value}, n = {entry['n']}{reused}, {entry['divergence']}, "
        f"tol {entry['tol']:.2g} nats, NFE {entry['nfe']:.0f}, {entry['seconds']:.1f} s"
    )


def _metric_lines(entry: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    against = f"of {entry['source']}" if entry.get("source") else "held-out"
    lines = [f"{'':<22}{'samples':>20}{'training data':>20}   (against {_count(entry)} {against})"]
    for name, metric in entry["metrics"].items():
        other = reference.get(name)
        lines.append(
            f"  {name:<20}{metric['value']:>12.4g} ± {metric['stderr']:<6.2g}"
            + (f"{other['value']:>11.4g} ± {other['stderr']:<6.2g}" if other else "")
        )
    return lines


def _count(entry: dict[str, Any]) -> int:
    return next(iter(entry["metrics"].values()))["n"]


def _print_summary(run: Any, seconds: float) -> None:
    """Print the figures of a run that has been trained, and keep them in the log of a sweep's job."""
    summary = run.summary()
    training = summary["training"]
    print()
    _tell(str(run.directory))
    _tell(
        f"training    {training['steps']} steps in {training['seconds']:.0f} s, "
        f"{summary['parameters']:,} parameters, {training['skipped']} steps skipped"
    )
    for key in ("likelihood", "likelihood_train"):
        if key in summary:
            _tell(f"{'likelihood' if key == 'likelihood' else '':<12}{_likelihood_line(summary[key])}")
    if "samples" in summary:
        entry = summary["samples"]
        _tell(f"samples     {entry['n']} by {entry['sampler']}, NFE {entry['nfe']}, {entry['seconds']:.1f} s")
        if "metrics" in entry:
            lines = _metric_lines(entry, summary.get("reference", {}))
            for line in lines:
                _tell(f"            {line}")
    further = [key for key in summary if key.startswith(("likelihood-", "samples-"))]
    if further:
        _tell(f"further     {', '.join(further)}: of other settings or an earlier step, see the report")
    if (run.directory / "samples").is_dir():
        _tell(f"pictures    {run.directory / 'samples'}")
    _tell(f"report      {run.directory / 'report.html'}   ({seconds:.0f} s in all)")


def _tell(line: str) -> None:
    print(line)
    note(line)
