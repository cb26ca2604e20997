"""Loggers: one or several by name, those of older configurations, and what is wrong with them."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from scoresde.cli.catalogue import conf_dir
from scoresde.cli.command_line import CommandLine
from scoresde.cli.commands.train import _logger_keys
from scoresde.cli.console import UsageError
from scoresde.cli.overrides import check_overrides
from scoresde.config.targets import instantiate
from scoresde.training.loggers import LocalLogger, TensorBoardLogger, WandbLogger


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        ((), [LocalLogger]),
        (("logger=wandb", "logger.wandb.project=mine", "logger.wandb.tags=[a,b]"), [WandbLogger]),
        (("logger=[wandb,tensorboard]", "logger.wandb.entity=team"), [WandbLogger, TensorBoardLogger]),
    ],
)
def test_loggers_by_name(overrides: tuple[str, ...], kinds: list[type]) -> None:
    config = composed(*overrides)
    assert [type(instantiate(config, key)) for key in _logger_keys(config)] == kinds
    check_overrides(CommandLine.of("train", overrides))


def test_the_logger_of_an_older_configuration() -> None:
    target = "scoresde.training.loggers.WandbLogger"
    old = OmegaConf.create({"logger": {"_target_": target, "project": "p", "mode": None, "group": None}})
    assert _logger_keys(old) == ["logger"]
    assert isinstance(instantiate(old, "logger"), WandbLogger)
    assert _logger_keys(OmegaConf.create({})) == []


def test_a_setting_of_no_logger_is_refused() -> None:
    with pytest.raises(UsageError, match=r"logger.project has no _target_: .* logger.NAME.KEY=VALUE"):
        _logger_keys(composed("logger=wandb", "+logger.project=p"))


@pytest.mark.parametrize("override", ["logger._target_=mine.Board", "+logger._target_=mine.Board"])
def test_a_target_without_the_name_of_its_logger_is_refused(override: str) -> None:
    with pytest.raises(UsageError, match=r"each logger has a name.*: write \+logger.mine._target_=mine.Board$"):
        check_overrides(CommandLine.of("train", [override, "allow=[mine]"]))
