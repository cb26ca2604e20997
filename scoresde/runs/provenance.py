"""The configuration and the data that weights were trained with: kept beside them, so that a change is noticed.

A configuration that was edited by hand, or other data under the same name, would otherwise give other numbers without
a word.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.data import DataInfo

__all__ = ["provenance"]

# The groups that a model is made of.
_GROUPS = ("sde", "network", "preconditioning")


def provenance(config: DictConfig, data: DataInfo | None) -> dict[str, Any]:
    """Everything that weights depend on in use, as plain values.

    Args:
        config: of the run.
        data: that the run is trained on; None where nothing is known of them.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    groups = {group: plain[group] for group in _GROUPS if group in plain}
    if data is None:
        return groups
    facts = data.to_plain()
    # Not the name, which is that of a file and may change with it.
    return {**groups, "data": {key: facts[key] for key in ("shape", "transform", "fingerprint")}}
