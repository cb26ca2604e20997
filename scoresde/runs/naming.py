"""Names of run directories and of what lies in them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.config.spelled_out import spelled_out
from scoresde.options.errors import ConfigError
from scoresde.options.moved import with_first_names

__all__ = ["check_name", "config_hash"]

# Groups that a run's weights and figures depend on.
_IDENTITY = (
    "data", "cascade", "sde", "network", "preconditioning", "objective", "optimizer", "training", "sampler",
    "evaluation",
)  # fmt: skip
# Keys of these groups that they do not depend on.
_FREE = (
    "training.log_every", "training.checkpoint_every", "training.keep", "training.snapshots", "training.snapshot_stds",
    "training.workers", "data.in_memory",
)  # fmt: skip
# Keys that earlier versions lacked, with the values that do what these did.
_LATER = {
    "evaluation.sample_likelihood": 0,
    "network.learn_variance": False,
    "evaluation.chain_draws": 0,
    "training.flip": False,
    "training.augment": None,
    "training.decay_after": None,
    "training.accumulate": 1,
    "objective.learned_weight": False,
    "network.vector_size": None,
    "network.image_channels": None,
    "network.token_size": None,
    "network.condition_dropout": 0.0,
    "network.augmentations": 0,
    "data.condition_columns": None,
    "data.condition_keys": None,
    "data.test_condition_keys": None,
    "data.condition_folder": None,
}


def config_hash(config: DictConfig) -> str:
    """Eight characters that two configurations share exactly when they give the same weights and figures."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    kept = {key: plain[key] for key in _IDENTITY if key in plain}
    for path in _FREE:
        group, key = path.split(".")
        kept.get(group, {}).pop(key, None)
    for path, usual in _LATER.items():
        group, key = path.split(".")
        if kept.get(group, {}).get(key, ...) == usual:
            del kept[group][key]
    # Directories are named by it, so that it does not depend on names of classes that change with the version.
    if "sampler" in kept:
        kept["sampler"] = spelled_out(kept["sampler"])
    return hashlib.sha256(json.dumps(with_first_names(kept), sort_keys=True).encode()).hexdigest()[:8]


def check_name(name: str) -> None:
    """Reject what is no plain name of a file or folder.

    Raises:
        ConfigError: A name with slashes, or . or ..
    """
    if Path(name).name != name or name in ("", ".", ".."):
        raise ConfigError(f"name is {name!r}, expected a name without slashes, and not . or ..")
