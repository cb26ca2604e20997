"""The provenance of weights: the parts of a configuration, and the facts about data, that they depend on in use."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.data import DataInfo

__all__ = ["provenance"]

# Groups of the configuration that a model is made of.
_GROUPS = ("sde", "network", "preconditioning")


def provenance(config: DictConfig, data: DataInfo | None) -> dict[str, Any]:
    """Everything that weights depend on in use, as plain values.

    Args:
        config: Configuration of the run.
        data: Facts about the data that the run is trained on; None where nothing is known of them.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    groups = {group: plain[group] for group in _GROUPS if group in plain}
    if data is None:
        return groups
    facts = data.to_plain()
    # Not the name, which is that of a file and may change with it.
    return {**groups, "data": {key: facts[key] for key in ("shape", "transform", "fingerprint")}}
