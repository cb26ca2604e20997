"""Writes the latents of data by an encoder of one's own."""

from pathlib import Path

import torch
from omegaconf import DictConfig

__all__ = ["encode_command"]


def encode_command(config: DictConfig) -> None:
    from scoresde.config.targets import find_own, instantiate
    from scoresde.data.latents import encode_data
    from scoresde.options.errors import ConfigError

    found = find_own(str(config.encoder), list(config.allow))
    encoder = found() if isinstance(found, type) else found
    data = instantiate(config, "data", list(config.allow))
    device = torch.device(config.device or "cpu")
    try:
        place = encode_data(
            data, encoder, Path(str(config.folder)), config.batch_size, device, str(config.encoder), config.progress
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(f"written to {place}; to train on them: scoresde train data=npy data.path={place}")
