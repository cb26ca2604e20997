"""Suggests noise levels, Langevin steps and β's for data."""

from omegaconf import DictConfig

from scoresde.cli.console import print_table

__all__ = ["suggest_command"]


def suggest_command(config: DictConfig) -> None:
    from scoresde.config.targets import instantiate
    from scoresde.training import suggest

    data = instantiate(config, "data", list(config.allow))
    found = suggest(data, config.steps, config.overlap, config.nats, config.sigma_min, config.samples, config.seed)
    print(found.name)
    print_table(("setting", "value", "why"), [list(row) for row in found.rows()])
    print("\noverrides of scoresde train")
    for name, overrides in found.overrides.items():
        print(f"  {name:<7} {overrides}")
