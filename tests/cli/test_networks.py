"""The default network: settled by the data, with what was changed in it, under the hash of the same network by name."""

import logging
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from scoresde.cli.catalogue import conf_dir
from scoresde.cli.command_line import CommandLine
from scoresde.cli.console import UsageError
from scoresde.cli.networks import fit_network
from scoresde.cli.overrides import check_overrides
from scoresde.runs.directory import config_hash


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", list(overrides))
    with open_dict(config):
        config.pop("experiment", None)
    return config


def fitted(shape: tuple[int, ...], *overrides: str, given: tuple[str, ...] = ()) -> DictConfig:
    config = composed(*overrides)
    fit_network(config, shape, "these", given)
    return config


@pytest.mark.parametrize(
    ("shape", "network"),
    [
        ((1, 8, 8), "unet"),
        ((3, 27, 31), "unet"),
        ((1, 1, 9), "unet"),
        ((2,), "mlp"),
        ((1000,), "mlp"),
        ((3, 100), "unet"),
        ((28, 28), "mlp"),
        ((3, 9), "mlp"),
        ((3, 1, 1), "mlp"),
        ((2, 4, 4, 4), "unet"),
        ((2, 4, 4, 4, 4), "mlp"),
    ],
)
def test_the_network_that_fits_has_the_hash_that_it_has_by_name(shape: tuple[int, ...], network: str) -> None:
    assert config_hash(fitted(shape)) == config_hash(composed(f"network={network}"))


def test_large_images_have_more_levels_unless_they_are_given() -> None:
    assert fitted((3, 64, 64)).network.multipliers == [1, 2]
    assert fitted((3, 256, 256)).network.multipliers == [1, 2, 2, 2]
    assert fitted((3, 256, 256), "network.multipliers=[1,4]").network.multipliers == [1, 4]
    assert fitted((3, 256, 256), given=("multipliers",)).network.multipliers == [1, 2]


def test_what_was_changed_stays_where_the_network_has_it() -> None:
    network = fitted((2,), "network.blocks=2", "experiment=digits_conditional").network
    assert network == {
        **OmegaConf.load(conf_dir() / "network" / "mlp.yaml"), "blocks": 2, "num_classes": 10, "label_dropout": 0.1
    }  # fmt: skip


@pytest.mark.parametrize(("overrides", "given"), [(("network.channels=8",), ()), ((), ("channels",))])
def test_what_the_network_does_not_have_is_refused(overrides: tuple[str, ...], given: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"network.channels is of a U-Net.* these have shape \(2,\): .* width, blocks"):
        fitted((2,), *overrides, given=given)


def test_a_class_of_ones_own_is_left_alone() -> None:
    config: Any = OmegaConf.create({"network": {"_target_": "mine.Network"}})
    fit_network(config, (2,), "these")
    assert config == {"network": {"_target_": "mine.Network"}}


def test_it_is_said_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "scoresde"):
        for shape in ((1, 8, 8), (2,), (28, 28), (3, 128, 96), (2, 500), (1, 16, 16, 32)):
            fitted(shape)
    assert caplog.messages == [
        "network=mlp for samples of shape (2,), as none was chosen",
        "network=mlp for samples of shape (28, 28), as none was chosen; data.channels_last=true takes them as images "
        "of one channel",
        "network.multipliers=[1, 2, 2] for images of 128x96, as none were chosen",
        "network=unet for signals of shape (2, 500), as none was chosen",
        "network.multipliers=[1, 2, 2, 2] for signals of 500, as none were chosen",
        "network=unet for volumes of shape (1, 16, 16, 32), as none was chosen",
        "network.multipliers=[1, 2, 2] for volumes of 16x16x32, as none were chosen",
    ]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("network.width=16", "; network=dit, network=mlp and network=mlp_classifier have width"),
        ("sde.sigma_max=9", "; sde=edm, sde=ncsn and sde=ve have sigma_max"),
        ("sde.beta=1", ""),
    ],
)
def test_a_key_of_another_choice_is_told_whose_it_is(given: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"^{given.partition('=')[0]}: ") as error:
        check_overrides(CommandLine.of("train", [given]))
    assert str(error.value).endswith(hint or "t_min, t_max, t_min_sampling")
