"""Draws samples."""

from omegaconf import DictConfig

from scoresde.cli.commands.lines import reused
from scoresde.cli.commands.opened import chosen_name, data_to_show, model_of, open_run, sampler_of

__all__ = ["sample_command"]


def sample_command(config: DictConfig) -> None:
    from scoresde.runs.labels import label_index
    from scoresde.runs.results import digest_of, is_of
    from scoresde.runs.sample import sample, sample_settings, saved_samples

    run = open_run(config)
    sampler, model, data = sampler_of(run, config), model_of(run, config), data_to_show(run)
    name = str(config.name or "")
    if not name:
        # Samples of other weights, for example, keep that name.
        label = label_index(model, config.label, data.class_names)
        name, settings = _sample_name(config), sample_settings(run, sampler, config.n, config.seed, label)
        known = saved_samples(run.directory / "samples" / f"{name}.npz")
        if known is not None and not is_of(known[1], settings) and not config.overwrite:
            name = f"{name}-{digest_of(settings)}"
    _, cost = sample(
        run,
        model,
        data,
        sampler,
        config.n,
        seed=config.seed,
        label=config.label,
        batch_size=config.batch_size,
        progress=config.progress,
        name=name,
        overwrite=config.overwrite,
    )
    print(
        f"{cost['n']} samples{reused(cost)}, {cost['nfe']} evaluations each, {cost['seconds']:.1f} s: "
        f"{run.directory / 'samples' / name}.npz"
    )


def _sample_name(config: DictConfig) -> str:
    """File name from sampler, label, n and seed, so that no job of a sweep writes another's file."""
    return "-".join(filter(None, (chosen_name(("sampler", "label")), f"n{config.n}", f"seed{config.seed}")))
