"""Certifies samplers, of posteriors or without measurements."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.cli.catalogue import conf_dir, options, order_of
from scoresde.cli.console import print_table

__all__ = ["certify_command"]


def certify_command(config: DictConfig) -> None:
    from scoresde.runs.certify import Parts, certify_in
    from scoresde.runs.named import Named

    sources = [Path(s.path) for s in HydraConfig.get().runtime.config_sources if s.schema == "file"]
    named = {
        group: Named(group, conf_dir() / group, list(config.allow), [path / group for path in sources])
        for group in ("method", "problem", "sampler")
    }
    orders = {name: order_of("sampler", name) for name in options("sampler")}
    claims = {name: float(order[0]) for name, order in orders.items() if order and order[0].isdigit()}
    parts = Parts(named["method"], named["problem"], named["sampler"], claims)
    done = certify_in(Path(config.out), config, parts, config.progress)
    head, *rows = done.table
    print_table(head, rows)
    print(f"all columns: {done.path}, picture: {done.path.with_suffix('.png')}, page: {done.path.with_suffix('.html')}")
    if done.failed:
        raise ValueError(f"{len(done.failed)} of {len(done.frame)} cells failed, the first {done.failed[0]}")
