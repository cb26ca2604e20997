"""Evaluates samples of a run against data."""

import time
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.metrics import PCA, evaluate_samples
from scoresde.metrics.evaluate import FEWEST
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.results import choose_name, identity_of, is_of, set_aside
from scoresde.runs.sample import sample, sample_settings, saved_samples
from scoresde.sampling import Sampler
from scoresde.score import NetworkScore

__all__ = ["check_evaluation_size", "evaluate"]


def check_evaluation_size(n: int) -> None:
    """Refuse to compare too few samples."""
    if n < FEWEST:
        raise ConfigError(
            f"sample quality needs at least {FEWEST} samples on each side, got {n}: ask for that many or more, "
            "or take a larger test split (training can leave it out by evaluation.samples=0)"
        )


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
