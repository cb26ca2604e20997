"""Evaluates samples of a run against reference statistics in a file."""

import time
from typing import cast

from scoresde.data import Data
from scoresde.runs.chains import RunModel
from scoresde.runs.directory import Run
from scoresde.runs.evaluation_names import evaluation_key, evaluation_settings, known_samples, name_of_samples
from scoresde.runs.published import Reference, RunFeatures
from scoresde.runs.results import Filing
from scoresde.runs.sample import Draw, draw_samples
from scoresde.runs.summary import SamplesEntry

__all__ = ["evaluate_against"]


def evaluate_against(
    run: Run,
    model: RunModel,
    data: Data,
    draw: Draw,
    features: RunFeatures,
    reference: Reference,
    *,
    progress: bool = True,
    filing: Filing | None = None,
) -> tuple[str, SamplesEntry]:
    """Draw samples and find the distances of their features from reference statistics, in the memory of the features.

    There may be more samples than are held out. Those of `scoresde sample` with the same settings are not drawn again.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        draw: Which samples are drawn.
        features: The features.
        reference: Statistics of the same features.
        progress: Show a progress bar.
        filing: How the result is named and stored; as `Filing()` if not given.

    Returns:
        The key of the summary, and its entry.
    """
    filing = filing or Filing()
    drawing = draw.settings(run, model, data)
    settings = {**evaluation_settings(drawing, data, None, 0, features), "against": str(reference)}
    summary = run.summary()
    known = known_samples(run, summary, settings, drawing)
    key = evaluation_key(run, data, settings, known, filing)
    if known.get(key) == settings and not filing.overwrite:
        return key, cast(SamplesEntry, {**summary.entry(key), "reused": True})
    name = name_of_samples(run, drawing, key, filing)
    stored, cost = draw_samples(run, model, data, draw, name=name, overwrite=filing.overwrite, progress=progress)
    began = time.perf_counter()
    metrics = reference.metrics(features.table(stored.parts(), draw.n, progress), draw.seed)
    entry = {**cost, **settings, "metrics": metrics, "metrics_seconds": time.perf_counter() - began}
    entry |= {"against_n": reference.statistics.n, "reference": {}}
    entry.pop("reused", None)
    run.add_to_summary(**{key: entry})
    return key, cast(SamplesEntry, entry)
