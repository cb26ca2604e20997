"""Writes a run in the format of another project."""

from pathlib import Path

from omegaconf import DictConfig

from scoresde.cli.commands.opened import open_run

__all__ = ["export_command"]


def export_command(config: DictConfig) -> None:
    from scoresde.interop import export_diffusers
    from scoresde.runs.chains import score_model

    run = open_run(config)
    folder = run.directory / str(config.format) if config.folder is None else Path(str(config.folder))
    if config.folder is None:
        run.check_writable()
    model = score_model(run.any_model(rules=False), "scoresde export")
    model.info = run.info()
    for note in export_diffusers(model, folder, config.steps):
        print(note)
    name = "diffusers.DiffusionPipeline.from_pretrained"
    print(f'written to {folder}; next: {name}("{folder}")')
