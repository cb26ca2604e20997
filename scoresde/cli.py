"""The `scoresde` command.

    scoresde train | sample | likelihood | tune | evaluate | report   [Hydra overrides]

Each command is a Hydra application: `--multirun`, `--cfg job`, `--help` and overrides work as Hydra's
documentation has them. What is added here: an override that does not exist is answered with the nearest name
that does, and a user's mistake ends in one line, not in a traceback.
"""

import difflib
import logging
import math
import os
import re
import shlex
import signal
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

__all__ = ["main"]

COMMANDS = {
    "train": "train a model, then sample, compute its likelihood and write a report",
    "sample": "draw samples from a trained run",
    "likelihood": "log-likelihood of data under a trained run",
    "tune": "find the times and coefficients that suit a trained run at a few evaluations",
    "evaluate": "quality of a run's samples against held-out data",
    "report": "write report.html of a run",
}

_USAGE = "usage: scoresde COMMAND [key=value ...]\n\n" + "\n".join(
    f"  {name:<11} {text}" for name, text in COMMANDS.items()
)


def conf_dir() -> Path:
    """Where the configuration is: in the wheel beside this file, in a checkout one folder up."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


class UsageError(ValueError):
    """The command line is wrong."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, those of the process if not given; exits with its status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE + "\n\n`scoresde COMMAND --help` shows what a command can be told.")
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from scoresde import __version__

        print(__version__)
        sys.exit(0)
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        _fail(
            f"unknown command {command!r}{_nearest(command, COMMANDS)}; expected one of {', '.join(COMMANDS)}",
            2,
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Libraries say at INFO what only their authors want to know.
    for noisy in ("accelerate", "matplotlib", "torch", "wandb", "hydra"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.formatwarning = _format_warning
    try:
        _check_overrides(command, rest)
        rest = _follow_sweeps(rest)
    except UsageError as error:
        _fail(str(error), 2)
    sys.argv = [f"scoresde {command}", *rest]
    task: Callable[[DictConfig], None] = {
        "train": _train,
        "sample": _sample,
        "likelihood": _likelihood,
        "tune": _tune,
        "evaluate": _evaluate,
        "report": _report,
    }[command]
    failures: list[int] = []
    application = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)
    application(_guarded(task, failures))()
    if failures:
        sys.exit(failures[0])


def _fail(message: str, status: int = 1) -> None:
    print(f"scoresde: {message}", file=sys.stderr)
    sys.exit(status)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of this package in one line, without the place in its code."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"scoresde: {' '.join(str(message).split())}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _guarded(task: Callable[[DictConfig], None], failures: list[int]) -> Callable[[DictConfig], None]:
    """`task` with a user's mistakes turned into one line and an exit status.

    In a sweep the status goes into `failures` and the other jobs run.
    """

    def fail(message: str) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            print(f"scoresde: {message}", file=sys.stderr)
            failures.append(1)
        else:
            _fail(message)

    def run(config: DictConfig) -> None:
        import torch

        from scoresde.training.loop import Interrupted

        try:
            task(config)
        except Interrupted as stop:
            again = [f"run={config.run}"] + ([f"allow=[{','.join(config.allow)}]"] if config.allow else [])
            how = f"scoresde train {shlex.join(again)}"
            print(f"\nstopped at step {stop.step} with a checkpoint written; to go on: {how}", file=sys.stderr)
            sys.exit(128 + stop.signum)
        except KeyboardInterrupt:
            hint = f"; to go on: scoresde train run={config.run}" if "training" in config and config.run else ""
            print(f"\nscoresde: interrupted{hint}", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except OSError as error:
            _raise_if_asked()
            where = f" ({error.filename})" if error.filename else ""
            fail(f"{error.strerror or error}{where}: what was complete is kept")
        except torch.OutOfMemoryError as error:
            _raise_if_asked()
            fail(f"{str(error).split('.')[0]}: lower training.batch_size (or batch_size), or take a smaller network")
        except (ValueError, ArithmeticError, TypeError, ImportError, OmegaConfBaseException) as error:
            _raise_if_asked()
            fail(" ".join(str(error).split()))

    return run


def _raise_if_asked() -> None:
    """With SCORESDE_TRACEBACK set, the traceback of any error: for those who work on the code."""
    if os.environ.get("SCORESDE_TRACEBACK"):
        raise


# -- overrides ------------------------------------------------------------------------------------------


def _nearest(name: str, names: Any) -> str:
    found = difflib.get_close_matches(name, [str(n) for n in names], n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""


def _check_overrides(command: str, arguments: Sequence[str]) -> None:
    """Compose the configuration once before Hydra does, to answer a wrong name with the nearest right one."""
    flags = [a for a in arguments if a.startswith("-")]
    if any(f.startswith(("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")) for f in flags):
        return
    texts = _without_flags(arguments)
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
    except (OverrideParseException, HydraException) as error:
        raise UsageError(" ".join(str(error).split())) from error
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    plain: list[str] = []
    sweeps: list[list[str]] = []
    for override in overrides:
        if override.is_hydra_override():
            continue
        if not override.key_or_group:
            raise UsageError(f"{override.input_line!r} has no key: write key=value")
        wrong = not (override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str | list))
        if override.key_or_group in groups and wrong:
            known = ", ".join(_options(override.key_or_group))
            raise UsageError(f"{override.input_line!r}: expected one of {known}")
        if override.is_sweep_override():
            if not {"-m", "--multirun"} & set(flags):
                raise UsageError(
                    f"{override.input_line!r} is a list of choices: add --multirun to run each, "
                    f"or quote it if it is one value: {override.key_or_group}=\\'...\\'"
                )
            key = str(override.input_line).split("=", 1)[0]
            sweeps.append([f"{key}={choice}" for choice in override.sweep_string_iterator()])
        else:
            plain.append(str(override.input_line))
    longest = max((len(s) for s in sweeps), default=1)
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        for i in range(longest):
            chosen = plain + [s[min(i, len(s) - 1)] for s in sweeps]
            try:
                compose(config_name=command, overrides=chosen)
            except HydraException as error:
                raise UsageError(_explain(command, error, chosen)) from error
            except (OmegaConfBaseException, ValueError) as error:
                raise UsageError(" ".join(str(error).split())) from error
    GlobalHydra.instance().clear()


def _follow_sweeps(arguments: Sequence[str]) -> list[str]:
    """The arguments, flags first, with values inside a group that is swept over as sweeps of one choice.

    Before its jobs Hydra composes a sweep's configuration without the swept groups, where such a key may not exist.
    """
    texts = _without_flags(arguments)
    overrides = dict(zip(texts, OverridesParser.create().parse_overrides(texts), strict=True))
    swept = {str(o.key_or_group) for o in overrides.values() if o.is_sweep_override()}

    def follow(text: str) -> str:
        override = overrides.get(text)
        if override is None or override.is_sweep_override() or text.partition(".")[0].lstrip("+~") not in swept:
            return text
        if override.is_delete():
            raise UsageError(f"{text!r}: nothing can be taken out of a group that is swept over")
        key, _, value = text.partition("=")
        return f"{key}=choice({value})"

    # Flags first: Hydra takes overrides in one row only.
    return [argument for argument in arguments if argument not in overrides] + [follow(text) for text in texts]


def _without_flags(arguments: Sequence[str]) -> list[str]:
    """The overrides among the arguments: what is neither a flag nor the value of one."""
    valued = {"--cfg", "-c", "--package", "-p", "--experimental-rerun", "--info", "-i"}
    valued |= {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"}
    texts, before = [], ""
    for argument in arguments:
        if not argument.startswith("-") and before not in valued:
            texts.append(argument)
        before = argument
    return texts


def _explain(command: str, error: Exception, overrides: Sequence[str]) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = error.options or _options(group)
        known = ", ".join(options)
        return f"{group or command} has no choice {name!r}{_nearest(name, options)}; expected one of {known}"
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    chosen = {o.split("=", 1)[0]: o for o in overrides if o.split("=", 1)[0] in groups}
    keys = _known_keys(command, list(chosen.values()))
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        group = key.split(".")[0]
        if "." in key and group in groups and not any(k.startswith(f"{group}.") for k in keys):
            return f"{override}: no {group} is chosen: add {group}=NAME, one of {', '.join(_options(group))}"
        if key in text and key.split("@")[0] not in keys:
            return f"unknown key {key!r}{_nearest(key, keys)} ({text})"
    return text


def _options(group: str) -> list[str]:
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


def _known_keys(command: str, choices: list[str]) -> set[str]:
    """Every key of the configuration with these choices of groups, and the groups."""
    try:
        composed = compose(config_name=command, overrides=choices)
    except (HydraException, OmegaConfBaseException):
        composed = compose(config_name=command)
    config = OmegaConf.to_container(composed, resolve=False)
    keys = {path.name for path in conf_dir().iterdir() if path.is_dir()}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                keys.add(f"{prefix}{key}")
                walk(value, f"{prefix}{key}.")

    walk(config, "")
    return keys


# -- commands -------------------------------------------------------------------------------------------


def _train(config: DictConfig) -> None:
    from scoresde.training.config import instantiate
    from scoresde.training.pipeline import train
    from scoresde.training.report import write_report

    run = _run_to_train(config)
    with open_dict(config):
        config.run = str(run.directory)  # for the message after an interrupt
    began = time.perf_counter()
    logger = instantiate(run.config, "logger", run.allow)
    if not train(run, logger, progress=config.progress):
        return
    write_report(run.directory)
    _print_summary(run, time.perf_counter() - began)


# What belongs to the command line, not to the run.
_COMMAND_KEYS = ("run", "resume", "runs", "name", "allow", "progress")


def _run_to_train(config: DictConfig) -> Any:
    """The run to start or to go on with."""
    from scoresde.training.config import ConfigError
    from scoresde.training.run import Run, config_hash

    allow = list(config.allow)
    if config.run is not None:
        run = Run.open(str(config.run), allow)
        if "evaluation" in run.config:
            # A run of an older version has not all of them.
            for key, value in OmegaConf.load(conf_dir() / "evaluation" / "default.yaml").items():
                if key not in run.config.evaluation:
                    run.config.evaluation[key] = value
        _apply_changes(run.config)
        return run
    plain: Any = OmegaConf.to_container(config, resolve=True)
    body = OmegaConf.create({k: v for k, v in plain.items() if k not in _COMMAND_KEYS})
    name = str(config.name or f"{_choices()}-{config_hash(body)}")
    if Path(name).name != name or name in (".", ".."):
        raise ConfigError(f"name is {name!r}, expected a name without slashes, and not . or ..")
    runs = Path(str(config.runs))
    number, directory = 1, runs / name
    existing = []
    while directory.exists():
        existing.append(directory)
        number += 1
        directory = runs / f"{name}-{number}"
    if config.resume:
        same = [d for d in existing if (d / "config.yaml").is_file()]
        same = [d for d in same if config_hash(Run.open(d, allow).config) == config_hash(body)]
        directory = same[-1] if same else directory
    return Run(directory, body, allow)


def _choices() -> str:
    """A name from what was chosen on the command line: experiment or data, then overridden groups."""
    choices = HydraConfig.get().runtime.choices
    first = choices.get("experiment") or choices["data"]
    parts = [str(first)]
    for override in HydraConfig.get().overrides.task:
        key, _, value = override.lstrip("+~").partition("=")
        if key in ("experiment", "data") or key not in choices:
            continue
        parts.append(value)
    return "-".join(parts)[:80]


def _apply_changes(config: DictConfig) -> None:
    """Overrides on top of a run that is continued: how long to train and what to do after, not what to train."""
    from scoresde.training.config import ConfigError

    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        key = override.key_or_group
        if key in _COMMAND_KEYS:
            continue
        if key in HydraConfig.get().runtime.choices:
            if key not in ("logger", "sampler"):
                raise ConfigError(
                    f"{override.input_line}: a run that is continued keeps its {key}; start a new run to change it"
                )
            config[key] = OmegaConf.load(conf_dir() / key / f"{override.value()}.yaml")
        elif key.split(".")[0] in ("training", "evaluation", "sampler", "logger"):
            OmegaConf.update(config, key, override.value(), merge=True)
        else:
            raise ConfigError(
                f"{override.input_line}: a run that is continued keeps its {key}; start a new run instead"
            )


def _open(config: DictConfig) -> Any:
    from scoresde.training.run import Run

    if OmegaConf.is_missing(config, "run"):
        raise UsageError("run is missing: give run=DIR, a directory that `scoresde train` wrote")
    return Run.open(str(config.run), list(config.allow))


def _data(run: Any) -> Any:
    from scoresde.training.pipeline import limit_threads

    data = run.data()
    limit_threads(data)
    return data


def _model(run: Any, config: DictConfig) -> Any:
    import torch

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return run.model().to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device is {device!r}: {str(error).splitlines()[0]}") from error


def _sampler(run: Any, config: DictConfig) -> Any:
    from scoresde.training.config import instantiate

    if config.get("sampler") is None:
        return run.make("sampler")
    for part in ("solver", "grid"):
        # A tuned file is the run's own if none is given.
        if OmegaConf.select(config, f"sampler.{part}.path", default=0) is None:
            OmegaConf.update(config, f"sampler.{part}.path", str(run.directory))
    return instantiate(config, "sampler", run.allow)


def _sample(config: DictConfig) -> None:
    from scoresde.training.pipeline import sample

    run = _open(config)
    sampler, model, data = _sampler(run, config), _model(run, config), _data(run)
    name = str(config.name or _sample_name(config))
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
    )
    print(
        f"{cost['n']} samples, {cost['nfe']} evaluations each, {cost['seconds']:.1f} s: "
        f"{run.directory / 'samples' / name}.npz"
    )


def _sample_name(config: DictConfig) -> str:
    """n and the seed, after the label and what was chosen of the sampler: no job of a sweep writes another's file."""
    parts: list[str] = []
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        key, value = str(override.key_or_group), str(override.input_line).partition("=")[2]
        if key == "sampler":
            parts.insert(0, value)
        elif key == "label" or key.startswith("sampler."):
            parts.append(f"{key.rpartition('.')[2]}{value}")
    chosen = "-".join(p for p in parts if p not in ("null", "labelnull"))
    plain = re.sub(r"[^\w.+-]+", "_", chosen)[:80].strip("_.")
    if plain != chosen:
        plain += f"-{zlib.crc32(chosen.encode()):08x}"
    return "-".join(filter(None, (plain, f"n{config.n}", f"seed{config.seed}")))


def _likelihood(config: DictConfig) -> None:
    import torch
    from accelerate import PartialState

    from scoresde.training.pipeline import likelihood

    run = _open(config)
    processes = PartialState(cpu=not torch.cuda.is_available())
    if config.device is None and processes.num_processes > 1:
        config.device = str(processes.device)
    with open_dict(run.config):
        run.config.evaluation.divergence = config.divergence
        run.config.evaluation.dequantisation = config.dequantisation
    model, data = _model(run, config), _data(run)
    entry = likelihood(run, model, data, config.split, config.n, config, config.progress, processes)
    if not processes.is_main_process:
        return
    print(_likelihood_line(entry))
    print(f"per sample: {run.directory / ('likelihood-' + config.split + '.csv')}")


def _evaluate(config: DictConfig) -> None:
    from scoresde.metrics import PCA
    from scoresde.training.pipeline import check_evaluation_size, evaluate, sample

    run = _open(config)
    sampler, model, data = _sampler(run, config), _model(run, config), _data(run)
    n = len(data.test) if config.n is None else config.n
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"n is {n!r}, expected a whole number of at least 1, or null for all")
    if n > len(data.test):
        raise UsageError(f"n is {n} but there are {len(data.test)} held-out samples: give n={len(data.test)} or less")
    check_evaluation_size(min(n, len(data.train)))
    features = None if config.pca is None else PCA(config.pca)
    most = min(n, math.prod(data.shape))
    if config.pca is not None and config.pca > most:
        raise UsageError(
            f"pca is {config.pca}, expected at most {most} components: the smaller of n and the dimensions"
        )
    drawn, cost = sample(
        run,
        model,
        data,
        sampler,
        n,
        seed=config.seed,
        batch_size=config.batch_size,
        progress=config.progress,
        name="evaluation",
    )
    evaluate(run, data, drawn, cost, seed=config.seed, features=features)
    summary = run.summary()
    print("\n".join(_metric_lines(summary)))


def _tune(config: DictConfig) -> None:
    from scoresde.training.pipeline import tune_run

    run = _open(config)
    began = time.perf_counter()
    made, path = tune_run(run, _model(run, config), _data(run), config)
    print(
        f"{made.evaluations} evaluations: error {made.error:.3g} on starts kept for judging, {made.before:.3g} before "
        f"({made.starts} starts, {time.perf_counter() - began:.0f} s): {path}"
    )


def _report(config: DictConfig) -> None:
    from scoresde.training.pictures import pictures
    from scoresde.training.report import write_report

    run = _open(config)
    if config.pictures:
        pictures(run, _model(run, config), _data(run))
    print(write_report(run.directory))


# -- summaries ------------------------------------------------------------------------------------------


def _likelihood_line(entry: dict[str, Any]) -> str:
    error = "" if entry["stderr"] is None else f" ± {entry['stderr']:.4f}"
    if entry["bits_per_dim"] is None:
        error = "" if entry["stderr"] is None else f" ± {entry['stderr']:.3f}"
        value = f"{entry['nats']:.3f}{error} nats"
    else:
        value = (
            f"{entry['bits_per_dim']:.4f}{error} bits/dim ({entry['dequantisation']} dequantisation, "
            f"{entry['decoder']} at t_min = {entry['t_min']:g}, draws = {entry['draws']}, {entry['bound']})"
        )
        if entry.get("elbo") is not None:
            value += f", ELBO {entry['elbo']:.4f} bits/dim"
    reused = f", {entry['reused']} of them there already" if entry["reused"] else ""
    return (
        f"{entry['split']}: {value}, n = {entry['n']}{reused}, {entry['divergence']}, tol {entry['tol']:.2g} nats, "
        f"NFE {entry['nfe']:.0f}, {entry['seconds']:.1f} s"
    )


def _metric_lines(summary: dict[str, Any]) -> list[str]:
    entry, reference = summary["samples"], summary.get("reference", {})
    lines = [f"{'':<22}{'samples':>20}{'training data':>20}   (against {_count(entry)} held-out)"]
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
    summary = run.summary()
    training = summary["training"]
    print(f"\n{run.directory}")
    print(
        f"training    {training['steps']} steps in {training['seconds']:.0f} s, "
        f"{summary['parameters']:,} parameters, {training['skipped']} steps skipped"
    )
    for key in ("likelihood", "likelihood_train"):
        if key in summary:
            print(f"{'likelihood' if key == 'likelihood' else '':<12}{_likelihood_line(summary[key])}")
    if "samples" in summary:
        entry = summary["samples"]
        print(f"samples     {entry['n']} by {entry['sampler']}, NFE {entry['nfe']}, {entry['seconds']:.1f} s")
        if "metrics" in entry:
            print("\n".join("            " + line for line in _metric_lines(summary)))
    print(f"pictures    {run.directory / 'samples'}")
    print(f"report      {run.directory / 'report.html'}   ({seconds:.0f} s in all)")


if __name__ == "__main__":
    main()
