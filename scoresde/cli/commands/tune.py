"""Tunes a sampler to a run."""

import time
from typing import Any

from omegaconf import DictConfig

from scoresde.cli.commands.opened import data_of, data_or_info, open_run, score_of

__all__ = ["tune_command"]


def tune_command(config: DictConfig) -> None:
    from scoresde.runs.conditions import other_conditions
    from scoresde.runs.directory import check_name
    from scoresde.runs.tune import measure_run, tune_run, variances_of_run
    from scoresde.sampling.plain_rule import usual_rule

    run = open_run(config)

    def starts_of(model: Any) -> Any:
        """The run's data where its model takes held-out conditions, else what is known of them."""
        return data_of(run) if other_conditions(model) else data_or_info(run)

    began = time.perf_counter()
    if config.variances:
        with run.alone("variances"):
            found, path = variances_of_run(run, score_of(run, config, "tune"), data_of(run), config)
        print(
            f"the errors of the model at {len(found.log_snr)} noise levels from {found.samples} samples each, "
            f"{found.seconds:.0f} s: {path}"
        )
        print("they give ancestral steps their best variances: sampler=strided sampler.solver.variance=optimal")
        return
    if config.steps == "all":
        with run.alone("steps"):
            model = score_of(run, config, "tune", rules=False)
            rules, path = measure_run(run, model, starts_of(model), config)
        print(
            f"the default solver at {min(rules.rules)} to {max(rules.rules)} steps: {rules.evaluations} evaluations "
            f"from {rules.starts} starts, {rules.seconds:.0f} s: {path}"
        )
        own = [str(steps) for steps, rule in sorted(rules.rules.items()) if rule != usual_rule(model, steps)]
        print(
            f"rules that suit this model surely better than those for any model were found for {', '.join(own)} steps"
            if own
            else "no rule suits this model surely better than those for any model, which are kept"
        )
        return
    check_name(f"tuned-{config.steps}")
    with run.alone(f"tuned-{config.steps}"):
        model = score_of(run, config, "tune")
        made, path = tune_run(run, model, starts_of(model), config)
    usual = "" if made.default is None else f", {made.default:.3g} of `default`"
    print(
        f"{made.evaluations} evaluations: error {made.error:.3g} on held-out starts{usual} "
        f"({made.starts} starts, {time.perf_counter() - began:.0f} s): {path}"
    )
    if made.default is not None and made.error >= made.default:
        print("no better than `default` on these starts: give more seconds, or starts=N and iterations=N")
