"""Checkpoints of guided-diffusion and improved-diffusion (Dhariwal & Nichol 2021; Nichol & Dhariwal 2021)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.arguments import checked
from scoresde.data import DataInfo
from scoresde.interop import published
from scoresde.interop.checkpoint import Checkpoint, described_network, node
from scoresde.interop.edm import PIXELS, checked_network
from scoresde.interop.fields import Fields
from scoresde.interop.guided_names import converted, network_options
from scoresde.interop.records import read_modules
from scoresde.score import NetworkScore
from scoresde.storage.bounded import CheckpointError

__all__ = ["load_guided_diffusion", "read_guided_diffusion"]


@checked
def load_guided_diffusion(
    path: str | Path,
    network_arguments: Mapping[str, Any] | str,
    diffusion: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> NetworkScore:
    """The model of a `.pt` file of guided-diffusion or improved-diffusion under its chain; nothing in it is run.

    The SDE is `DiscreteVPSDE` with the chain's table of β. At its times i/T the network is given the integers of its
    training (rescaled to 1000, where the project does so), and between them numbers in between. Where variances are
    learned, samplers that use variances use them.

    Args:
        path: The file, of EMA weights or of others.
        network_arguments: Arguments of the project's `UNetModel`, where `attention_resolutions` are factors of
            downsampling; or the name of a published file, such as "64x64_diffusion".
        diffusion: Arguments of its `create_gaussian_diffusion`: `steps`, `noise_schedule`, `learn_sigma`,
            `rescale_timesteps` and `predict_xstart`. It is left out with the name of a published file.
        image_size: Height and width of images, where `network_arguments` do not have them, as those of
            improved-diffusion: otherwise the model takes images of any size, and does not know that of its data.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A file that is damaged or of another kind, or of another network than that of the arguments,
            and arguments that are not understood.

    References:
        Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis, https://arxiv.org/abs/2105.05233
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672
    """
    return read_guided_diffusion(path, network_arguments, diffusion, image_size).model()


def read_guided_diffusion(
    path: str | Path,
    network_arguments: Mapping[str, Any] | str,
    diffusion: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> Checkpoint:
    """The parts of the model that `load_guided_diffusion` gives."""
    path = Path(path).expanduser()
    if isinstance(network_arguments, str):
        network_arguments, known = published.guided(network_arguments)
        diffusion = known if diffusion is None else diffusion
    if diffusion is None:
        raise CheckpointError("diffusion is missing: give the arguments of the diffusion, such as steps=1000")
    network = Fields(network_arguments, "network_arguments")
    chain = Fields(diffusion, "diffusion")
    stored = _stored(read_modules(path), path)
    channels, outputs = network.whole("in_channels", 3), network.whole("out_channels")
    learns = chain.flag("learn_sigma", outputs == 2 * channels)
    if outputs != channels * (1 + learns):
        raise CheckpointError(
            f"network_arguments.out_channels is {outputs}, expected {channels * (1 + learns)} with "
            f"diffusion.learn_sigma {learns}"
        )
    sde, steps = _chain(chain)
    index = node("preconditioning.TableIndex", steps=steps, scale=_scale(chain, steps))
    kind = "UnscaledDataPreconditioning" if chain.flag("predict_xstart", False) else "UnscaledNoisePreconditioning"
    options = checked_network(network_options, network_arguments, path)
    if options["any_size"] and image_size is not None:
        options |= {"any_size": False, "shape": (channels, image_size, image_size)}
    return Checkpoint(
        path,
        "guided-diffusion",
        described_network("UNet", options),
        sde,
        node(f"preconditioning.{kind}", noise_input=index),
        None if options["any_size"] else DataInfo("images", options["shape"], PIXELS, options["num_classes"]),
        stored,
        partial(_named, config=network_arguments),
    )


def _named(stored: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return converted(stored, config)


def _stored(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} is no dictionary of tensors, as files of guided-diffusion are")
    return {str(name): value for name, value in content.items()}


def _chain(diffusion: Fields) -> tuple[dict[str, Any], int]:
    """The SDE and the number of its steps."""
    if diffusion.values.get("timestep_respacing") not in (None, "", []):
        raise CheckpointError("diffusion.timestep_respacing is a matter of sampling: leave it out")
    steps = diffusion.whole("steps")
    if diffusion.word("noise_schedule", ("linear", "cosine")) == "cosine":
        return node("sde.CosineDDPMSDE", train_steps=steps), steps
    return node("sde.DDPMSDE", train_steps=steps, beta_min=0.1 / steps, beta_max=20 / steps), steps


def _scale(diffusion: Fields, steps: int) -> float:
    """The factor from a step to the number that the network is given."""
    if steps == 1000 or not diffusion.flag("rescale_timesteps"):
        return 1.0
    return 1000 / steps
