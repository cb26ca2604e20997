"""The commands as functions of their configuration."""

from collections.abc import Callable

from omegaconf import DictConfig

from scoresde.cli.commands.certify import certify_command
from scoresde.cli.commands.compare import compare_command
from scoresde.cli.commands.dequantise import dequantise_command
from scoresde.cli.commands.ema import ema_command
from scoresde.cli.commands.encode import encode_command
from scoresde.cli.commands.evaluate import evaluate_command
from scoresde.cli.commands.export import export_command
from scoresde.cli.commands.information import information_command
from scoresde.cli.commands.likelihood import likelihood_command
from scoresde.cli.commands.report import report_command
from scoresde.cli.commands.restore import restore_command
from scoresde.cli.commands.sample import sample_command
from scoresde.cli.commands.suggest import suggest_command
from scoresde.cli.commands.train import train_command
from scoresde.cli.commands.tune import tune_command
from scoresde.cli.jobs import Outcome

__all__ = ["TASKS"]

TASKS: dict[str, Callable[[DictConfig], Outcome | None]] = {
    "train": train_command,
    "sample": sample_command,
    "restore": restore_command,
    "likelihood": likelihood_command,
    "information": information_command,
    "compare": compare_command,
    "certify": certify_command,
    "evaluate": evaluate_command,
    "tune": tune_command,
    "suggest": suggest_command,
    "encode": encode_command,
    "dequantise": dequantise_command,
    "ema": ema_command,
    "export": export_command,
    "report": report_command,
}
