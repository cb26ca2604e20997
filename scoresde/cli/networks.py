"""The default network: chosen for the data once these are known, and stored as what was chosen."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.cli.catalogue import conf_dir
from scoresde.cli.console import UsageError

__all__ = ["DEFAULT", "fit_network"]

_log = logging.getLogger(__name__)

DEFAULT = "default"  # the choice of the group that stands for what fits
_HINT = "; data.channels_last=true takes them as images of one channel"


def fit_network(
    config: DictConfig, shape: Sequence[int], data: str, given: Collection[str] = (), *, classifies: bool = False
) -> None:
    """Replace the default network of a configuration by the one that fits samples of `shape`, and say so.

    What an experiment or the command line has changed in the default stays, where the other network has it too.

    Args:
        config: Composed with the default network; its `network` is changed in place.
        shape: Shape of one sample.
        data: Name of the data, for messages.
        given: Keys of the network that are given on the command line.
        classifies: Whether a classifier of noised samples is trained.

    Raises:
        UsageError: A key was changed that the network which fits does not have.
    """
    from scoresde.networks import UNet
    from scoresde.networks.sizes import kind, shown

    default: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "network" / "unet.yaml"))
    composed: Any = OmegaConf.to_container(config.network, resolve=True)
    changed = {k: v for k, v in composed.items() if k in given or k not in default or default[k] != v}
    if "_target_" in changed:  # a class of the user's own
        return
    if UNet.fits(shape):
        if classifies:
            _replace(config, "unet_classifier", changed, f"{kind(shape)} of shape {tuple(shape)} and their classes")
        elif len(shape) != 3:
            hint = _HINT if _may_be_images(shape) else ""
            _log.info("network=unet for %s of shape %s, as none was chosen%s", kind(shape), tuple(shape), hint)
        multipliers = list(UNet.default_multipliers(shape))
        if "multipliers" not in changed and multipliers != default["multipliers"]:
            config.network.multipliers = multipliers
            where = f"{kind(shape)} of {shown(shape[1:])}"
            _log.info("network.multipliers=%s for %s, as none were chosen", multipliers, where)
        return
    name = "mlp_classifier" if classifies else "mlp"
    hint, what = _HINT if _may_be_images(shape) else "", f"samples of shape {tuple(shape)}"
    _replace(config, name, changed, what, f"samples of {data} have shape {tuple(shape)}", hint)


def _replace(
    config: DictConfig, name: str, changed: Mapping[str, Any], what: str, samples: str = "", hint: str = ""
) -> None:
    """Put another choice in the place of the default network.

    Args:
        config: The configuration, changed in place.
        name: The choice.
        changed: Settings that were changed in the default.
        what: What the choice is for, in the words of its announcement.
        samples: What a U-Net does not suit, for the message; empty where it does.
        hint: End of the announcement.
    """
    other: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "network" / f"{name}.yaml"))
    lost = [key for key in changed if key not in other]
    if lost:
        reason = "score model, and a classifier is trained"
        if samples:
            reason = f"U-Net, which takes signals, images and volumes with their channels first, and {samples}"
        raise UsageError(
            f"network.{lost[0]} is of a {reason}: leave it out for network={name}, which has "
            + ", ".join(key for key in other if key != "_target_")
        )
    config.network = {**other, **changed}
    _log.info("network=%s for %s, as none was chosen%s", name, what, hint)


def _may_be_images(shape: Sequence[int]) -> bool:
    return len(shape) == 2 and min(shape) >= 8
