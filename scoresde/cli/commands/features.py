"""Published features and reference statistics as the commands take them."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.cli.console import UsageError

__all__ = [
    "check_features",
    "chosen_features",
    "features_of",
    "published_of",
    "reference_lines",
    "reference_of",
    "warn_of_few",
]

_log = logging.getLogger(__name__)


def check_features(config: DictConfig) -> None:
    """Refuse settings that make no sense together, and files that are not there, before anything is loaded.

    Raises:
        UsageError: Such settings.
    """
    for name in ("features", "reference"):
        if config.get(name) is not None and config.pca is not None:
            raise UsageError(f"pca={config.pca} is of values: leave out {name}, or pca")
    if config.reference is not None and config.likelihood:
        raise UsageError(f"likelihood={config.likelihood} is against held-out data: leave out reference, or likelihood")
    if config.reference is not None and not _same(config) and not Path(config.reference).exists():
        raise UsageError(
            f"reference={config.reference} does not exist; give a file with mu and sigma, such as save_reference=FILE "
            "writes"
        )
    if config.save_reference is None:
        return
    path = Path(config.save_reference)
    if path.suffix != ".npz":
        raise UsageError(
            f"save_reference={path} is an npz file for EDM and pytorch-fid: give it a name that ends in .npz"
        )
    if not path.parent.is_dir():
        raise UsageError(f"save_reference={path}: there is no folder {path.parent}")


def _same(config: DictConfig) -> bool:
    """Whether the statistics that are read are those that are written."""
    written, read = config.save_reference, config.reference
    return None not in (written, read) and Path(written).resolve() == Path(read).resolve()


def published_of(run: Any, model: Any, data: Any, config: DictConfig) -> Any:
    """The published features of the run's data that are chosen, on the device of the model; None for none.

    Raises:
        ConfigError: Data that are no images, no weights, or a file of others.
        UsageError: Something else than published features.
    """
    from scoresde.config.targets import instantiate
    from scoresde.metrics.published import PublishedFeatures
    from scoresde.options.errors import ConfigError
    from scoresde.runs.published import check_images

    if config.get("features") is None:
        return None
    # Before the weights are asked for.
    name = HydraConfig.get().runtime.choices.get("features") or str(config.features.get("_target_"))
    check_images(name, data.transform, tuple(data.shape))
    try:
        found = instantiate(config, "features", run.allow)
    except ConfigError as error:
        told = str(error).replace("weights=", "features.weights=").replace("download=True", "features.download=true")
        raise ConfigError(told) from error
    if not isinstance(found, PublishedFeatures):
        raise UsageError(f"features is a {type(found).__name__}, expected published features, such as features=dinov2")
    return found.to(model.device)


def chosen_features() -> str:
    """The name of the features that are chosen, as part of a file's name; empty for none."""
    return HydraConfig.get().runtime.choices.get("features") or ""


def features_of(run: Any, model: Any, data: Any, config: DictConfig) -> Any:
    """The features on which samples are compared: published ones, or values.

    Raises:
        ConfigError: Weights that cannot be read, or data that are no images.
    """
    from scoresde.runs.published import RunFeatures

    return RunFeatures(published_of(run, model, data, config), data.transform, tuple(data.shape))


def reference_of(features: Any, values: Any, source: str, n: int, config: DictConfig) -> Any:
    """The reference statistics that samples are compared with, after those that are asked for are written; or None.

    Args:
        features: The features.
        values: What the statistics that are written are of, in raw units.
        source: Where these are from.
        n: Number of samples.
        config: The configuration.

    Raises:
        ConfigError: Statistics that cannot be read, or of other features.
    """
    from scoresde.runs.published import Reference, save_reference

    written, read, same = config.save_reference, config.reference, _same(config)
    found = None if read is None or same else Reference.load(read, features)
    if written is not None:
        made = save_reference(written, features, values, config.progress)
        print(f"{written}: {features.kind} of {made.n} samples of {source}")
    if same:
        found = Reference.load(read, features)
    if features.published is not None or found is not None:
        warn_of_few(features, n)
    return found


def warn_of_few(features: Any, n: int) -> None:
    """Warn of a number of samples that does not tell the covariance of their features."""
    if n <= features.width:
        _log.warning(
            "n=%d samples of %d features are too few to know their covariance: Fréchet distances are mostly bias, and "
            "only to be compared at this n",
            *(n, features.width),
        )


def reference_lines(entry: Mapping[str, Any], reference: Any) -> list[str]:
    """The distances from reference statistics, with the numbers of samples and of what the statistics are of."""
    of = "an unknown number" if reference.statistics.n is None else reference.statistics.n
    lines = [
        f"{'':<24}{'samples':>22}{'n':>9}   (against {reference}, of {of}, {len(reference.statistics.mean)} features)"
    ]
    for name, metric in entry["metrics"].items():
        lines.append(f"  {name:<22}{metric['value']:>13.5g} ± {metric['stderr']:<6.2g}{metric['n']:>9}")
    return [*lines, *(f"  {line}" for line in reference.left_out(entry["n"]))]
