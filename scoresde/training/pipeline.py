"""What the commands do with a run: train, sample, compute likelihoods and evaluate."""

import io
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import datetime, timezone
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde import __version__
from scoresde.data import Data, DataInfo, class_index
from scoresde.data.labels import listed
from scoresde.limits import check_memory, check_unpacked
from scoresde.metrics import PCA, evaluate_samples
from scoresde.metrics.evaluate import FEWEST
from scoresde.progress import say
from scoresde.sampling import Sampler, TunedSteps, tune
from scoresde.score import NetworkScore
from scoresde.training.checkpoint import CheckpointError, remove_leftovers, write_atomically
from scoresde.training.config import ConfigError
from scoresde.training.environment import processes
from scoresde.training.likelihoods import check_likelihood, likelihood
from scoresde.training.loggers import Guarded, LocalLogger, Logger
from scoresde.training.loop import Trainer, opening
from scoresde.training.options import option_problems
from scoresde.training.pictures import has_classes, picture_of_samples, pictures, read_log
from scoresde.training.provenance import check_same_data, provenance
from scoresde.training.results import choose_name, differences, identity_of, is_of, outdate, set_aside
from scoresde.training.run import Run, build_model, check_name, data_statistics

__all__ = [
    "check_evaluation_size",
    "check_labels",
    "evaluate",
    "label_index",
    "labels_of",
    "likelihood",
    "limit_threads",
    "sample",
    "train",
    "tune_run",
]

_log = logging.getLogger(__name__)


def limit_threads(shape: tuple[int, ...]) -> None:
    """Take one CPU thread for samples of up to 256 elements, unless OMP_NUM_THREADS says otherwise.

    Their layers are too small to share: a second thread gains nothing, and where another program runs, the
    threads' waiting for each other makes every layer several times slower.
    """
    if math.prod(shape) <= 256 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def check_labels(network: Any, data: Data) -> None:
    """Refuse a network with classes on data without, or with another number of them."""
    wanted = getattr(network, "num_classes", None)
    if wanted is None:
        return
    if data.train_labels is None:
        raise ConfigError(
            f"network.num_classes is {wanted} but the data set {data.name} has no labels: "
            "set network.num_classes=null or choose labelled data"
        )
    if wanted != data.num_classes:
        raise ConfigError(
            f"network.num_classes is {wanted} but the data set {data.name} has {data.num_classes} classes: "
            f"set network.num_classes={data.num_classes}"
        )


def train(
    run: Run,
    loggers: Sequence[Logger] | None = None,
    progress: bool = True,
    restart: bool = False,
    data: Data | None = None,
    device: str | None = None,
) -> bool:
    """Train (or go on with) the run's model, then sample, evaluate and draw pictures.

    Args:
        loggers: where numbers and pictures go besides the run directory.
        progress: show progress.
        data: the data of a new run, if they were loaded already.
        restart: train a run anew whose checkpoints are gone or damaged, which is refused otherwise.
        device: where to train; as for `scoresde.training.environment.processes` if not given.

    Returns:
        Whether this is the process that did the latter.

    Raises:
        ConfigError: the run is in use, cannot be written to, or has lost its checkpoints.
        CheckpointError: all its checkpoints are damaged.
    """
    run.check_writable("checkpoints", "samples")
    known = run.info()
    if data is None or known is not None:
        data = run.data()
    if known is not None:
        check_same_data(str(run.info_path), known, data, run.accept)
    info = DataInfo.of(data)
    limit_threads(data.shape)
    options = run.make("training")
    # The least that a step takes: values of the batch, in several stages, and their numbers.
    least = options.batch_size * (24 * math.prod(data.shape) + 64)
    check_memory(least, f"training.batch_size={options.batch_size}")
    # The order of creation and the seed fix the initial weights.
    torch.manual_seed(options.seed)
    statistics = data_statistics(data, options.dequantise)
    model = build_model(run, data.shape, statistics)
    check_labels(model.network, data)
    _check_evaluation(run, model, data)
    accelerator = processes(device)
    loggers = [LocalLogger(), *(Guarded(each) for each in loggers or () if not isinstance(each, LocalLogger))]
    trainer = Trainer(
        model,
        run.make("objective"),
        data,
        run.make("optimizer"),
        options,
        run.directory,
        loggers,
        accelerator,
        progress,
        provenance(run.config, info),
        run.accept,
    )
    with run.alone("training") if accelerator.is_main_process else nullcontext():
        if not _resume(run, trainer, restart):
            _check_new(run, trainer, restart)
        # Everything that can be refused has been refused: now write.
        return _train(run, trainer, model, data, loggers, accelerator.is_main_process, progress)


def _resume(run: Run, trainer: Trainer, restart: bool) -> bool:
    """Go on from a checkpoint; False if there is none, or none that is good where a `restart` is asked for."""
    try:
        resumed = trainer.resume()
    except CheckpointError as error:
        if not restart:
            raise CheckpointError(f"{error}; or restart=true to train again from step 0") from error
        trainer.set_aside_checkpoints()
        return False
    if resumed and restart:
        raise ConfigError(f"restart=true, but {run.directory} can go on from step {trainer.step}: leave it out")
    return resumed


def _check_new(run: Run, trainer: Trainer, restart: bool) -> None:
    """Refuse to begin at step 0 where a checkpoint must have been, lest what was trained be replaced."""
    every, logged = trainer.options.checkpoint_every, max((line["step"] for line in read_log(run)), default=0)
    lost = run.model_path.exists() or (every is not None and logged > every)
    if lost and not restart:
        what = "a trained model" if run.model_path.exists() else f"a log of {logged} steps"
        raise ConfigError(
            f"{run.directory} has {what}, but no checkpoint to go on from: restore {trainer.checkpoints}, or give "
            "restart=true to train again from step 0"
        )


def _train(
    run: Run, trainer: Trainer, model: NetworkScore, data: Data, loggers: list[Logger], first: bool, progress: bool
) -> bool:
    """The part of `train` that writes, if this is the `first` of its processes."""
    if first:
        remove_leftovers(trainer.checkpoints, "step-*.pt")
        remove_leftovers(run.directory, run.model_path.name, "config.yaml", "metrics.jsonl")
        run.write_config()
        run.write_info(DataInfo.of(data))
        summary = run.summary()
        if summary.get("finished"):
            run.add_to_summary(finished=False)
        if trainer.step < trainer.options.steps and "training" in summary:
            # What the weights will no longer give, whatever stops training before they are evaluated.
            outdate(run, summary["training"]["steps"])
            _rewrite_report(run)
        plain: Any = OmegaConf.to_container(run.config, resolve=True)
        for each in loggers:
            each.rewind(run.directory, trainer.step)
            each.start(run.directory, plain)
        if progress:
            say(opening(model, data, trainer.options, trainer.accelerator.device, run.directory))
    try:
        trainer.fit()
        if not first:
            return False
        run.save_model(model, trainer.step)
        run.add_to_summary(
            name=run.directory.name,
            parameters=sum(p.numel() for p in model.network.parameters()),
            training={
                "steps": trainer.step,
                "seconds": trainer.seconds,
                "skipped": trainer.skipped,
                "loss": _last_loss(run),
                **_circumstances(run, trainer, data),
            },
        )
        _after_training(run, model, data, loggers, trainer.step, progress)
        run.add_to_summary(finished=True)
        _rewrite_report(run)
        for each in loggers:
            each.directory(run.directory)
        return True
    finally:
        if first:
            for each in loggers:
                each.finish()


def _circumstances(run: Run, trainer: Trainer, data: Data) -> dict[str, Any]:
    """When, where and with what training came to its last step; what is known of that already stays."""
    now = {
        "samples": len(data.train),
        "device": _device_name(trainer.accelerator.device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
    }
    known = run.summary().get("training", {})
    return {key: known.get(key) for key in now if key in known} if known.get("steps") == trainer.step else now


def _device_name(device: torch.device) -> str:
    """A device as a reader knows it: "a CPU", or the name of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "a CPU" if device.type == "cpu" else device.type


def _rewrite_report(run: Run) -> None:
    # Late: training does not wait for what only a page needs.
    from scoresde.training.report import write_report

    write_report(run.directory)


def _check_evaluation(run: Run, model: NetworkScore, data: Data) -> None:
    """Refuse before training what would be refused after it."""
    evaluation = run.config.evaluation
    plain: Any = OmegaConf.to_container(evaluation, resolve=True)
    for problem in option_problems("evaluation", plain, prefix="evaluation."):
        raise ConfigError(problem)
    if evaluation.samples:
        check_evaluation_size(min(evaluation.samples, len(data.test), len(data.train)))
    elif evaluation.samples is None and _number_to_evaluate(evaluation, data) == 0:
        _log.warning(
            "%d held-out and %d training samples are fewer than the %d that sample quality needs: it is left out",
            *(len(data.test), len(data.train), FEWEST),
        )
    check_likelihood(run, data, evaluation, "evaluation.")
    run.make("sampler").grid(model.sde)


def _number_to_evaluate(evaluation: DictConfig, data: Data) -> int:
    """How many samples are drawn and compared after training."""
    if evaluation.samples is None:
        return len(data.test) if min(len(data.test), len(data.train)) >= FEWEST else 0
    return min(int(evaluation.samples), len(data.test))


def check_evaluation_size(n: int) -> None:
    """Refuse to compare too few samples."""
    if n < FEWEST:
        raise ConfigError(
            f"sample quality needs at least {FEWEST} samples on each side, got {n}: ask for that many or more, "
            "or take a larger test split (training can leave it out by evaluation.samples=0)"
        )


def _after_training(
    run: Run, model: NetworkScore, data: Data, loggers: list[Logger], step: int, progress: bool
) -> None:
    evaluation = run.config.evaluation
    n = _number_to_evaluate(evaluation, data)
    if n > 0:
        evaluate(run, model, data, run.make("sampler"), n, seed=evaluation.seed, progress=progress, own=True)
    if evaluation.likelihood != 0:
        # As many of the training data as there are held out: enough to see overfitting.
        most = len(data.test) if evaluation.likelihood is None else evaluation.likelihood
        for split in ("test", "train"):
            likelihood(run, model, data, split, most, evaluation, progress, own=True)
    if evaluation.pictures:
        _pictures(run, model, data)
    summary = run.summary()
    for each in loggers:
        each.numbers(step, {"event": "evaluation", **_flat(summary)})
        for picture in run.pictures():
            each.picture(step, Path(picture["file"]).stem, run.directory / picture["file"])
        if summary.get("samples", {}).get("metrics"):
            each.table(step, "sample quality", *_quality(summary))


def _pictures(run: Run, model: NetworkScore, data: Data) -> None:
    """Draw the pictures of a model, unless they are there."""
    settings = {
        "model": run.fingerprint(),
        "data_hash": data.fingerprint(),
        "sampler": identity_of(run.make("sampler")),
        "seed": run.config.evaluation.seed,
    }
    if not is_of(run.summary().get("pictures"), settings):
        pictures(run, model, data, seed=run.config.evaluation.seed)
        run.add_to_summary(pictures=settings)


def _quality(summary: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of a table of the metrics of samples, and of training data for scale."""
    rows = []
    for name, entry in summary["samples"]["metrics"].items():
        other = summary.get("reference", {}).get(name, {})
        rows.append([name, entry["value"], entry["stderr"], other.get("value"), other.get("stderr"), entry["n"]])
    return ["metric", "samples", "stderr", "training data", "stderr of training data", "n"], rows


def sample(
    run: Run,
    model: NetworkScore,
    data: Data | DataInfo,
    sampler: Sampler,
    n: int,
    *,
    seed: int = 0,
    label: int | str | None = None,
    batch_size: int = 1024,
    progress: bool = True,
    name: str = "samples",
    overwrite: bool = False,
) -> tuple[Tensor, dict[str, Any]]:
    """Draw n samples, save them and a picture of them; those that are there with the same settings are read.

    Returns the samples `(n, ...)` in raw units, and what they cost.

    Args:
        data: the run's data, or what it knows of them, with which pictures show no held-out data beside samples.
        label: the class to draw from, by its name or index, for models with classes; else classes come in turn.
        overwrite: replace samples of the same name with other settings.

    Raises:
        ConfigError: there are samples of this name with other settings.
    """
    for problem in option_problems("sample", {"n": n, "seed": seed, "batch_size": batch_size}):
        raise ConfigError(problem)
    check_memory(8 * n * math.prod(data.shape), f"n={n}")
    check_name(name)
    run.check_writable("samples")
    cond = labels_of(model, n, label, data.class_names)
    path = run.directory / "samples" / f"{name}.npz"
    with run.alone(f"samples-{name}"):
        remove_leftovers(path.parent, f"{escape(name)}.npz")
        settings = sample_settings(run, sampler, n, seed, label_index(model, label, data.class_names))
        known = None if overwrite else saved_samples(path)
        if known is not None:
            saved, note = known
            if note is None or not is_of(note, settings) or saved.shape != (n, *data.shape):
                raise ConfigError(
                    f"{path} is there already, {differences(note, settings)}: give another name, or overwrite=true to "
                    "replace it"
                )
            return saved, {**note, "reused": True}
        began = time.perf_counter()
        options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "progress": progress, **cond}
        out = sampler(model, (n, *data.shape), **options)
        seconds = time.perf_counter() - began
        raw = data.transform.decode(out.x.cpu())
        cost = {**settings, "step": run.step(), "nfe": out.nfe, "seconds": seconds}
        arrays: dict[str, Any] = {"x": raw.numpy(), **{k: v.cpu().numpy() for k, v in cond.items()}}
        buffer = io.BytesIO()
        arrays[_NOTE] = np.array(json.dumps(cost))
        np.savez_compressed(buffer, **arrays)
        write_atomically(path, lambda file: file.write(buffer.getvalue()))
        classes = _of_classes(model, data.class_names, settings["label"])
        caption = f"{n} samples{classes}, {out.nfe} evaluations of the network each, seed {seed}."
        in_turn = _class_names(model, data.class_names) if has_classes(model) and settings["label"] is None else ()
        picture_of_samples(run, data, raw, name, caption, in_turn)
        return raw, cost


def _of_classes(model: NetworkScore, names: Sequence[str] | None, index: int | None) -> str:
    """The classes of samples, for a caption."""
    if not has_classes(model):
        return ""
    names = _class_names(model, names)
    return f" of the classes {listed(names)} in turn" if index is None else f" of class {names[index]}"


_NOTE = "note"  # the array of a file of samples that says how they were drawn, as JSON


def sample_settings(run: Run, sampler: Sampler, n: int, seed: int, label: int | None = None) -> dict[str, Any]:
    """What samples depend on; the label as an index."""
    return {"sampler": identity_of(sampler), "n": n, "seed": seed, "label": label, "model": run.fingerprint()}


def saved_samples(path: Path) -> tuple[Tensor, dict[str, Any] | None] | None:
    """Samples in a file and the note of how they were drawn; None if there is no such file.

    The note is None in a file of an older version, or one that cannot be read.
    """
    if not path.is_file():
        return None
    try:
        check_unpacked(path, str(path))
        with np.load(path, allow_pickle=False) as file:
            note = json.loads(str(file[_NOTE]))
            return torch.from_numpy(file["x"]), note if isinstance(note, dict) else None
    except Exception:  # whatever a damaged or foreign file makes numpy and zipfile raise
        return torch.empty(0), None


def labels_of(
    model: NetworkScore, n: int, label: int | str | None, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Give n samples their condition: classes in turn, or `label`; none for a model without classes.

    Args:
        model: whose network has the classes.
        n: number of samples.
        label: a class by its name or index (see `scoresde.data.class_index`).
        names: of the classes; their indices if not given.

    Raises:
        ValueError: no such class, or a label for a model without classes.
    """
    index = label_index(model, label, names)
    if not has_classes(model):
        return {}
    classes = int(model.network.num_classes)  # type: ignore[arg-type]
    labels = torch.arange(n) % classes if index is None else torch.full((n,), index)
    return {"labels": labels.to(model.device)}


def label_index(model: NetworkScore, label: int | str | None, names: Sequence[str] | None = None) -> int | None:
    """The index of a class of the model, as for `labels_of`; None for none."""
    if label is None:
        return None
    if not has_classes(model):
        raise ValueError("this model was trained without labels: leave out label, or train with network.num_classes")
    return class_index(label, _class_names(model, names))


def _class_names(model: NetworkScore, names: Sequence[str] | None) -> Sequence[str]:
    """Names of the model's classes; their indices where there are no others."""
    classes = int(model.network.num_classes)  # type: ignore[arg-type]
    return names if names is not None and len(names) == classes else [str(i) for i in range(classes)]


def tune_run(run: Run, model: NetworkScore, data: Data | DataInfo, options: DictConfig) -> tuple[TunedSteps, Path]:
    """Tune steps for the run's model and write them into its directory; the steps and the file.

    Raises:
        ConfigError: a wrong option.
    """
    plain: Any = OmegaConf.to_container(options, resolve=True)
    for problem in option_problems("tune", plain):
        raise ConfigError(problem)
    count = options.starts if isinstance(options.starts, int) else 16384
    made = tune(
        model,
        options.steps,
        data.shape,
        starts=options.starts,
        coefficients=options.coefficients,
        seconds=options.seconds,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=options.progress,
        **labels_of(model, count, options.label, data.class_names),
    )
    path = run.directory / f"tuned-{options.steps}.json"
    write_atomically(path, lambda file: file.write(made.to_json().encode()))
    return made, path


def evaluate(
    run: Run,
    model: NetworkScore,
    data: Data,
    sampler: Sampler,
    n: int,
    *,
    seed: int = 0,
    pca: int | None = None,
    batch_size: int = 1024,
    progress: bool = True,
    label: str = "",
    source: str | None = None,
    overwrite: bool = False,
    own: bool = False,
    first: bool = True,
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Draw samples and compare them with as many held-out samples, and training data with the same for scale.

    The figures go into the summary with what the samples cost: the run's own as `samples`, others under a name of what
    differs in their settings (see `choose_name`). Figures with the same settings are not computed again.

    Args:
        run: the run.
        model: its model.
        data: its data, or others in the place of its test data.
        sampler: draws the samples.
        n: how many.
        seed: of the samples, and of which data they are compared with.
        pca: compare on so many principal components; raw values if None.
        batch_size: samples to work on at once.
        progress: show a progress bar.
        label: a short text for the sampler, as part of a name.
        source: the file that the data are from, for the summary, if they are not the run's.
        overwrite: replace the run's own figures.
        own: these are the run's own figures; those that are there with other settings get a further name.
        first: where there are none these are the run's own, whatever their settings.

    Returns:
        The key of the summary, its entry, and the metrics of training data.
    """
    drawing = sample_settings(run, sampler, n, seed)
    settings = {**drawing, "pca": pca, "data": data.name, "data_hash": data.fingerprint()}
    summary = run.summary()
    known = _known_samples(run, summary, settings, drawing)
    key = "samples"
    if own:
        if key in known and known[key] != settings:
            set_aside(run, key, known[key], settings)
    else:
        default = None if first else _own_settings(run, data, settings)
        if source is not None:
            default = {**(default or settings), "data_hash": None}
        replacing = overwrite and source is None
        key = choose_name(key, known, settings, default, overwrite=replacing, labels={"sampler": label})
    if known.get(key) == settings and not overwrite:
        entry = summary[key]
        return key, {**entry, "reused": True}, entry.get("reference") or summary.get("reference", {})
    drawn, cost = sample(
        run,
        model,
        data,
        sampler,
        n,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
        name=key,
        overwrite=overwrite,
    )
    metrics, reference, seconds = sample_quality(data, drawn, seed=seed, features=None if pca is None else PCA(pca))
    entry = {**cost, **settings, "metrics": metrics, "metrics_seconds": seconds}
    entry |= {} if source is None else {"source": source}
    entry.pop("reused", None)
    if key == "samples":
        run.add_to_summary(samples=entry, reference=reference)
    else:
        run.add_to_summary(**{key: {**entry, "reference": reference}})
    return key, entry, reference


def _known_samples(
    run: Run, summary: dict[str, Any], settings: dict[str, Any], drawing: dict[str, Any]
) -> dict[str, dict[str, Any] | None]:
    """Settings of the evaluations in the summary by their names, and of other samples under such a name.

    Samples of the same settings without figures, as an interrupted command leaves them, are not among them.
    """
    known: dict[str, dict[str, Any] | None] = {}
    for path in (run.directory / "samples").glob("samples*.npz"):
        found = saved_samples(path)
        if found is not None and not is_of(found[1], drawing):
            known[path.stem] = found[1]
    for key, entry in summary.items():
        if isinstance(entry, dict) and (key == "samples" or key.startswith("samples-")):
            known[key] = {name: entry.get(name) for name in settings}
    return known


def _own_settings(run: Run, data: Data, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the evaluation that training makes."""
    evaluation = run.config.get("evaluation", {})
    n = evaluation.get("samples")
    own = {"n": len(data.test) if n is None else min(n, len(data.test)), "seed": evaluation.get("seed", 0)}
    with suppress(ValueError):  # tuned steps that are not there
        own["sampler"] = identity_of(run.make("sampler"))
    return {**settings, "sampler": None, "pca": None, **own}


def sample_quality(
    data: Data, samples: Tensor, *, seed: int = 0, features: Any = None
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Metrics of samples and of training data, both against as many held-out data, and the seconds they took."""
    n = min(len(samples), len(data.test), len(data.train))
    order = torch.Generator().manual_seed(seed)
    test = _units(data, data.test[torch.randperm(len(data.test), generator=order)[:n]])
    some = _units(data, data.train[torch.randperm(len(data.train), generator=order)[:n]])
    began = time.perf_counter()
    metrics = _metrics(evaluate_samples(_units(data, samples[:n]), test, features, seed, same_units=True))
    reference = _metrics(evaluate_samples(some, test, features, seed, same_units=True))
    return metrics, reference, time.perf_counter() - began


def _units(data: Data, raw: Tensor) -> Tensor:
    """Values in model space, cell centres for discrete data."""
    return data.transform.encode(raw).double()


def _metrics(estimates: dict[str, Any]) -> dict[str, Any]:
    return {k: {"value": e.value, "stderr": e.stderr, "n": e.n} for k, e in estimates.items()}


def _last_loss(run: Run) -> float | None:
    return next((line["loss"] for line in reversed(read_log(run)) if line.get("loss") is not None), None)


def _flat(summary: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested numbers under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = value
    return flat
