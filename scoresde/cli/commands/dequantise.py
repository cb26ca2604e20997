"""Fits variational dequantisation to a run."""

import time

from omegaconf import DictConfig

from scoresde.cli.commands.opened import data_of, open_run, score_of

__all__ = ["dequantise_command"]


def dequantise_command(config: DictConfig) -> None:
    from scoresde.runs.dequantise import dequantise

    run = open_run(config)
    began = time.perf_counter()
    with run.alone("dequantisation"):
        entry, path = dequantise(run, score_of(run, config, "dequantise"), data_of(run), config)
    kept = str(path) if path is not None else "no better than uniform, nothing is kept"
    print(
        f"bits/dim {entry['variational']:.4f}, {entry['uniform']:.4f} with uniform dequantisation, gain "
        f"{entry['gain']:.4f} ± {entry['stderr']:.4f} on {entry['n']} held-out training images "
        f"({time.perf_counter() - began:.0f} s): {kept}"
    )
