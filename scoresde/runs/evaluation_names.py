"""The settings of evaluations, and the names under which these and their samples are stored."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from scoresde.data import Data
from scoresde.runs.directory import Run
from scoresde.runs.published import RunFeatures
from scoresde.runs.results import Filing, choose_name, identity_of, is_of, set_aside
from scoresde.runs.sample_files import find_samples, stored_samples
from scoresde.runs.summary import Summary

__all__ = ["evaluation_key", "evaluation_settings", "known_samples", "name_of_samples"]


def evaluation_settings(
    drawing: dict[str, Any], data: Data, pca: int | None, likelihood: int, features: RunFeatures | None
) -> dict[str, Any]:
    """The settings of an evaluation; None, as in entries of earlier versions, where there is none.

    Args:
        drawing: Those of the samples.
        data: The data of the run, or others in the place of its test data.
        pca: Number of principal components to compare on.
        likelihood: Number of samples whose log-density is compared.
        features: Features to compare on; None for values.
    """
    return {
        **drawing,
        "pca": pca,
        "data": data.name,
        "data_hash": data.fingerprint(),
        "likelihood": likelihood or None,
        "guidance": drawing.get("guidance"),
        "cascade": drawing.get("cascade"),
        "features": None if features is None or features.published is None else features.kind,
        "against": None,
    }


def evaluation_key(
    run: Run,
    data: Data,
    settings: dict[str, Any],
    known: Mapping[str, dict[str, Any] | None],
    filing: Filing,
) -> str:
    """The key of the summary for an evaluation with these settings; the run's own make room for others."""
    if filing.own:
        if "samples" in known and known["samples"] != settings:
            set_aside(run, "samples", known["samples"], settings)
        return "samples"
    of_values = settings["features"] is None and settings["against"] is None
    default = None if filing.first and of_values else _own_settings(run, data, settings)
    if filing.source is not None:
        default = {**(default or settings), "data_hash": None}
    replacing = filing.overwrite and filing.source is None and settings["cascade"] is None and of_values
    labels = {
        "sampler": filing.label,
        "guidance": filing.guidance,
        "cascade": filing.cascade,
        "features": filing.features,
        "against": filing.reference,
    }
    return choose_name("samples", known, settings, default, overwrite=replacing, labels=labels)


def known_samples(
    run: Run, summary: Summary, settings: dict[str, Any], drawing: dict[str, Any]
) -> dict[str, dict[str, Any] | None]:
    """Settings of the evaluations in the summary by their names, and of other samples under such a name.

    Samples of the same settings without figures, as an interrupted command leaves them, are not among them.
    """
    known: dict[str, dict[str, Any] | None] = {}
    folder = run.directory / "samples"
    for path in (*folder.glob("samples*.npz"), *(path for path in folder.glob("samples*") if path.is_dir())):
        stored = stored_samples(path)
        if stored is not None and not is_of(stored.note, drawing):
            known[path.name.removesuffix(".npz")] = stored.note
    for key, entry in summary.items():
        if isinstance(entry, dict) and (key == "samples" or key.startswith("samples-")):
            known[key] = {name: entry.get(name) for name in settings}
    return known


def name_of_samples(run: Run, drawing: dict[str, Any], key: str, filing: Filing) -> str:
    """The name of samples that are there with these settings; that of the result where there are none."""
    found = None if filing.overwrite else find_samples(run.directory / "samples", drawing)
    return found or key


def _own_settings(run: Run, data: Data, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the evaluation that training makes."""
    evaluation = run.config.get("evaluation", {})
    n = evaluation.get("samples")
    own = {"n": len(data.test) if n is None else min(n, len(data.test)), "seed": evaluation.get("seed", 0)}
    with suppress(ValueError):  # tuned steps that are not there
        own["sampler"] = identity_of(run.make("sampler"), run)
    own["likelihood"] = evaluation.get("sample_likelihood") or None
    none = dict.fromkeys(("sampler", "pca", "guidance", "label", "cascade", "features", "against"))
    usual = {**settings, **none, **own}
    if not str(usual.get("condition", "held-out")).startswith("held-out"):  # a file
        del usual["condition"]
    return usual
