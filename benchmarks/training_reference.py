"""Training steps by the authors' own code, in a process that imports nothing of this package, for `training.py`.

Of score_sde_pytorch: its network, loss, optimiser, clipping and average. Of EDM: its network, loss and optimiser, and
the few lines that its loop has around them. What they import that a step does not need is replaced: the compiler of the
CUDA operator, in whose place their own Python path runs, and `ml_collections`, of which a dictionary is enough.

Started as a script with the checkout, the architecture, channels, batch and threads, it makes a step for each line of
the standard input, and answers with the processor time and the seconds of it.
"""

import copy
import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_clock import serve

__all__: list[str] = []

Step = Callable[[], object]
Make = Callable[[], tuple[torch.nn.Module, Step]]


class _ConfigDict(dict):  # type: ignore[type-arg]
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    __setattr__ = dict.__setitem__


def _score_sde(name: str, channels: int, images: torch.Tensor) -> Make:
    """Makes a step as `run_lib.train` does, of the configuration for CIFAR-10 with other channels."""
    collections = types.ModuleType("ml_collections")
    collections.ConfigDict = _ConfigDict  # type: ignore[attr-defined]
    sys.modules["ml_collections"] = collections
    extension = importlib.import_module("torch.utils.cpp_extension")
    extension.load = lambda *_, **__: None  # type: ignore[attr-defined]
    place = {"ncsnpp": "configs.ve.cifar10_ncsnpp_continuous", "ddpmpp": "configs.vp.cifar10_ddpmpp_continuous"}[name]
    config = importlib.import_module(place).get_config()
    config.model.nf = channels
    config.device = images.device
    losses = importlib.import_module("losses")
    sde_lib = importlib.import_module("sde_lib")
    importlib.import_module("models.ncsnpp")
    network = importlib.import_module("models.utils").get_model(config.model.name)
    average_of = importlib.import_module("models.ema").ExponentialMovingAverage
    sde = (
        sde_lib.VESDE(config.model.sigma_min, config.model.sigma_max, config.model.num_scales)
        if name == "ncsnpp"
        else sde_lib.VPSDE(config.model.beta_min, config.model.beta_max, config.model.num_scales)
    )
    step = losses.get_step_fn(
        sde,
        train=True,
        optimize_fn=losses.optimization_manager(config),
        reduce_mean=config.training.reduce_mean,
        continuous=config.training.continuous,
        likelihood_weighting=config.training.likelihood_weighting,
    )

    def make() -> tuple[torch.nn.Module, Step]:
        model = network(config).to(images.device)
        optimizer = losses.get_optimizer(config, model.parameters())
        average = average_of(model.parameters(), decay=config.model.ema_rate)
        state = {"optimizer": optimizer, "model": model, "ema": average, "step": 1}
        return model, lambda: step(state, images)

    return make


def _edm(name: str, channels: int, images: torch.Tensor) -> Make:
    """Makes a step as `training_loop` does, without augmentation, of the configuration for CIFAR-10."""
    networks = importlib.import_module("training.networks")
    loss_of = importlib.import_module("training.loss").EDMLoss()
    options = {
        "edm_ddpmpp": {"embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard",
                       "channel_mult_noise": 1, "resample_filter": [1, 1]},
        "edm_ncsnpp": {"embedding_type": "fourier", "encoder_type": "residual", "decoder_type": "standard",
                       "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]},
        "adm": {"model_type": "DhariwalUNet", "channel_mult": [1, 2, 3], "dropout": 0.1},
    }[name]  # fmt: skip
    song = {"model_type": "SongUNet", "channel_mult": [2, 2, 2], "dropout": 0.13}

    def make() -> tuple[torch.nn.Module, Step]:
        model = networks.EDMPrecond(32, 3, model_channels=channels, **(song | options)).to(images.device)
        model.train().requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
        average = copy.deepcopy(model).eval().requires_grad_(False)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(net=model, images=images)
            loss.sum().mul(1 / len(images)).backward()
            for parameter in model.parameters():
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
            optimizer.step()
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.copy_(new.detach().lerp(kept, 0.999))

        return model, step

    return make


def main() -> None:
    """Serve steps."""
    checkout, name, channels, batch, threads, device = sys.argv[1:]
    # Folders of theirs have names of files here.
    sys.path[0] = str(Path(checkout).resolve())
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    images = torch.rand(int(batch), 3, 32, 32, device=device)

    make = _edm if name.startswith(("edm", "adm")) else _score_sde
    serve(make(name, int(channels), images), device)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # the asker tells of it
        print(json.dumps({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}), flush=True)
        raise SystemExit(1) from error
