"""What does not go together with steering, found before anything is imported that takes long."""

from omegaconf import DictConfig

from scoresde.cli.console import UsageError

__all__ = ["check_steering", "is_none"]

_UNUSED = {
    "sampler": "steering has a sampler of its own, whose steps are steer.steps",
    "start": "particles begin from noise",
    "super": "the models of a cascade are sampled by their samplers",
    "negative": "the target is made of the model with and without its conditions",
}


def check_steering(config: DictConfig) -> None:
    """Reject what steering does not use beside a target.

    Raises:
        UsageError: Such a setting.
    """
    if is_none(config, "steer", "NoSteering"):
        return
    if not is_none(config, "guidance", "NoGuidance"):
        raise UsageError(
            "guidance and steer are two ways to one end: leave out guidance, whose samples are of no known density, or "
            "leave out steer"
        )
    for key, why in _UNUSED.items():
        if config.get(key) is not None:
            raise UsageError(f"{key} is not for use with steer, as {why}: leave out {key}, or steer")


def is_none(config: DictConfig, group: str, name: str) -> bool:
    """True if a group is not there, or chosen to be nothing."""
    node = config.get(group)
    return node is None or str(node.get("_target_")).rpartition(".")[2] == name
