"""Evaluates samples of a run against data."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.likelihood import log_likelihood
from scoresde.metrics import PCA, Estimate, Spectrum, evaluate_samples, nats_lost
from scoresde.metrics.evaluate import FEWEST, METRICS, feature_estimates, widths
from scoresde.options.errors import ConfigError
from scoresde.runs.blocks import Block, block_size, blocks
from scoresde.runs.by_class import quality_by_class
from scoresde.runs.chains import RunModel, score_model
from scoresde.runs.conditions import conditions_of, split_conditions
from scoresde.runs.coverage import Coverage, coverage, metric_entries
from scoresde.runs.directory import Run
from scoresde.runs.evaluation_names import evaluation_key, evaluation_settings, known_samples, name_of_samples
from scoresde.runs.labels import label_index
from scoresde.runs.pictures import picture_of_copies, picture_of_shares, picture_of_widths
from scoresde.runs.published import RunFeatures
from scoresde.runs.results import Filing
from scoresde.runs.sample import Draw, sample
from scoresde.runs.summary import MetricEntry, SamplesEntry
from scoresde.runs.team import each
from scoresde.runs.widths import run_directions
from scoresde.score import NetworkScore, ScoreModel, in_model_space
from scoresde.statistics import Statistics

__all__ = ["check_evaluation_size", "evaluate"]


def check_evaluation_size(n: int) -> None:
    """Reject a comparison of too few samples.

    Raises:
        ConfigError: Fewer than the metrics need.
    """
    if n < FEWEST:
        raise ConfigError(
            f"sample quality needs at least {FEWEST} samples on each side, got {n}: ask for that many or more, "
            "or take a larger test split (training can leave it out by evaluation.samples=0)"
        )


def evaluate(
    run: Run,
    model: RunModel,
    data: Data,
    draw: Draw,
    *,
    pca: int | None = None,
    likelihood: int = 0,
    published: RunFeatures | None = None,
    progress: bool = True,
    filing: Filing | None = None,
) -> tuple[str, SamplesEntry, dict[str, MetricEntry]]:
    """Draw samples and compare them with as many held-out samples, and training data with the same for scale.

    Samples of one class are compared with data of this class; those of all classes in turn also class by class,
    but not by published features, of which there are more than a class has samples.

    The figures go into the summary with what the samples cost: the run's own as `samples`, others under a name of what
    differs in their settings (see `choose_name`). Figures with the same settings are not computed again.

    Args:
        run: The run.
        model: Its model.
        data: Its data, or others in the place of its test data.
        draw: Which samples are drawn; its seed also chooses which data they are compared with.
        pca: Number of principal components to compare on; raw values if None.
        likelihood: Number of samples whose log-density by the model is compared with that of held-out data.
        published: Published features to compare on, and not on values; widths, classes and copies are of values still.
        progress: Show a progress bar.
        filing: How the result is named and stored; as `Filing()` if not given.

    Returns:
        The key of the summary, its entry, and the metrics of training data.
    """
    filing = filing or Filing()
    scored = score_model(model, f"likelihood={likelihood}, the log-density of samples,") if likelihood else None
    drawing = draw.settings(run, model, data)
    settings = evaluation_settings(drawing, data, pca, likelihood, published)
    summary = run.summary()
    known = known_samples(run, summary, settings, drawing)
    key = evaluation_key(run, data, settings, known, filing)
    if known.get(key) == settings and not filing.overwrite:
        entry = summary.entry(key)
        reference = entry.get("reference") or summary.reference
        return key, cast(SamplesEntry, {**entry, "reused": True}), reference
    asked = draw.asked(model)
    index = label_index(asked, draw.label, data.class_names)
    part = data if index is None else data.of_class(index)
    name = key if published is None else name_of_samples(run, drawing, key, filing)
    drawn, cost = sample(run, model, data, draw, name=name, overwrite=filing.overwrite, progress=progress)
    features = None if pca is None else PCA(pca)
    labels = draw.conditions(model, data).get("labels")
    quality = sample_quality(
        part,
        drawn,
        seed=draw.seed,
        features=features,
        statistics=model.statistics if index is None else None,
        of_all=index is None,
        labels=labels,
        every=data,
        published=published,
    )
    began, metrics, reference = time.perf_counter(), {**quality.metrics}, quality.reference
    if scored is not None:
        own: dict[str, Any] = {"label": draw.label if scored.classes is not None else None, "condition": draw.condition}
        lost = log_density_lost(scored, part, drawn, likelihood, seed=draw.seed, **own)
        metrics |= metric_entries({lost.name: lost})
    by_class = {}
    if labels is not None and index is None and published is None:
        by_class = quality_by_class(data, drawn, labels, seed=draw.seed, features=features)
    seconds = quality.seconds + time.perf_counter() - began
    covered = quality.coverage
    if published is None:  # else they are those of values
        _pictures(run, data, drawn, quality, key, filing)
    entry = {**cost, **settings, "metrics": metrics, "metrics_seconds": seconds}
    entry |= {"by_class": covered.by_class} if covered.by_class else {}
    entry |= {"classes": by_class} if by_class else {}
    entry |= {} if filing.source is None else {"source": filing.source}
    entry.pop("reused", None)
    if key == "samples":
        run.add_to_summary(samples=entry, reference=reference)
    else:
        run.add_to_summary(**{key: {**entry, "reference": reference}})
    return key, cast(SamplesEntry, entry), reference


def _pictures(run: Run, data: Data, drawn: Tensor, quality: "Quality", key: str, filing: Filing) -> None:
    picture_of_widths(run, quality.spectra, key, filing.source or "held-out data")
    covered = quality.coverage
    if covered.shares is not None:
        picture_of_shares(run, covered.shares, covered.groups, covered.kind, key)
    if covered.copied is not None:
        picture_of_copies(run, data, drawn, covered.copied, key)


@dataclass(frozen=True)
class Quality:
    """The quality of samples, and of training data for scale, against as many held-out data.

    Attributes:
        metrics: Metrics of the samples.
        reference: Metrics of training data.
        spectra: Widths of both along the principal directions of the data, by the names `samples` and `training data`.
        coverage: Modes or classes that the samples cover, and whether they copy training data.
        seconds: Seconds that all of it took.
    """

    metrics: dict[str, MetricEntry]
    reference: dict[str, MetricEntry]
    spectra: dict[str, Spectrum]
    coverage: Coverage
    seconds: float


def sample_quality(
    data: Data,
    samples: Tensor,
    *,
    seed: int = 0,
    features: Any = None,
    statistics: Statistics | None = None,
    of_all: bool = True,
    labels: Tensor | None = None,
    every: Data | None = None,
    published: RunFeatures | None = None,
) -> Quality:
    """Metrics of samples and of training data, both against as many held-out data.

    Args:
        data: The data.
        samples: Samples in raw units.
        seed: Seed of the choice of data.
        features: Features to compare on, as for `scoresde.metrics.evaluate_samples`.
        statistics: Moments of the training data in model space, for their principal directions.
        of_all: Whether the samples are of all classes.
        labels: Classes that the samples were drawn given; None where they were not.
        every: Data of all classes, where `data` are those of one.
        published: Published features to compare on; widths, modes, classes and copies are of values.
    """
    n = min(len(samples), len(data.test), len(data.train))
    order = torch.Generator().manual_seed(seed)
    held_out = data.test[torch.randperm(len(data.test), generator=order)[:n]]
    test = _units(data, held_out)
    some = data.train[torch.randperm(len(data.train), generator=order)[:n]]
    train = _units(data, some)
    drawn = _units(data, samples[:n])
    began = time.perf_counter()
    # Before any principal directions are found, whose message would be of fewer samples than all metrics need.
    check_evaluation_size(n)
    directions = run_directions(data, test, statistics)
    options: dict[str, Any] = {"same_units": True, "directions": directions}
    if published is None:
        measured = partial(evaluate_samples, b=test, features=features, seed=seed, **options)
        estimates = list(each(measured, (drawn, train)))
    else:
        estimates = _by_features(published, (samples[:n], some), held_out, seed)
        for found, x in zip(estimates, (drawn, train), strict=True):
            found |= {e.name: e for e in widths(x, test, directions)}
    metrics, reference = (metric_entries({k: e[k] for k in METRICS}) for e in estimates)
    given = None if labels is None else labels[:n]
    covered = coverage(data, samples[:n], some, of_all=of_all, features=features, labels=given, every=every)
    metrics, reference = metrics | covered.metrics, reference | covered.reference
    spectra = {"samples": directions(drawn), "training data": directions(train)}
    return Quality(metrics, reference, spectra, covered, time.perf_counter() - began)


def _by_features(
    features: RunFeatures, sets: tuple[Tensor, ...], held_out: Tensor, seed: int
) -> list[dict[str, Estimate]]:
    """Estimates of each of these sets against held-out data, all in raw units, by their features."""
    *found, test = (features.table([x], len(x), True) for x in (*sets, held_out))
    return list(each(partial(feature_estimates, y=test, seed=seed), found))


def log_density_lost(
    model: NetworkScore,
    data: Data,
    samples: Tensor,
    n: int,
    *,
    seed: int = 0,
    label: int | str | None = None,
    condition: str | None = None,
) -> Estimate:
    """The log-density, by the model's own likelihood, that n samples lose against n held-out data, in nats.

    Data of levels are dequantised uniformly on both sides. The likelihood of a model with classes is that given the
    label.

    Args:
        model: The model.
        data: The data.
        samples: Samples in raw units.
        n: Number of samples on each side; fewer if there are not as many.
        seed: Seed of the choice of data, of the dequantisation and of the probes.
        label: Class of the samples; else classes come in turn.
        condition: File of the conditions of all samples, as they were drawn; None where there was none.

    Raises:
        ConfigError: Held-out data without conditions that the model takes.
        LikelihoodError: The likelihood of a sample cannot be computed.
    """
    n = min(n, len(samples), len(data.test))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.test), generator=generator)[:n]
    held_out = {name: v[chosen].to(model.device) for name, v in split_conditions(model, data, "test").items()}
    drawn = conditions_of(model, data, len(samples), label, condition)
    conditions = ({name: values[:n] for name, values in drawn.items()}, held_out)
    found, density = [], _LogDensity(in_model_space(model), seed)
    for raw, cond in zip((samples[:n], data.test[chosen]), conditions, strict=True):
        noise = None if data.transform.levels is None else torch.rand(raw.shape, generator=generator)
        x = data.transform.encode(raw, noise)
        found.append(torch.cat(list(each(density, blocks(len(x), block_size(len(x), len(x)), cond, x)))))
    return nats_lost(*found)


@dataclass(frozen=True)
class _LogDensity:
    """The log-densities `(b,)` of blocks of samples in model space, in this process or in another."""

    model: ScoreModel
    seed: int

    def __call__(self, block: Block) -> Tensor:
        assert block.start is not None
        device = self.model.device
        cond: dict[str, Any] = {name: values.to(device) for name, values in block.cond.items()}
        options: dict[str, Any] = {"seed": self.seed, "first": block.first, **cond}
        return log_likelihood(self.model, block.start.to(device), **options).log_prob.cpu()


def _units(data: Data, raw: Tensor) -> Tensor:
    """Values in model space, cell centres for discrete data."""
    return data.transform.encode(raw).double()
