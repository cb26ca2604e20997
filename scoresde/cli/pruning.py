"""The end of a trial that does worse than others at the same step, told by its held-out loss."""

from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from scoresde.cli.jobs import sweep_directory
from scoresde.cli.search import job_name, open_study
from scoresde.training.loggers import Logger, StopTraining

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["Pruned", "Pruner", "pruner_of_job"]


class Pruned(StopTraining):
    """A trial was ended early, with a checkpoint written."""


class Pruner(Logger):
    """Tells a study the held-out losses of a trial, and ends it if the study's pruner says so.

    Lower losses are better, whatever the study's direction is.

    Args:
        trial: The trial.
    """

    def __init__(self, trial: "Trial") -> None:
        self.trial = trial
        self._sign = 1 if trial.study.direction.name == "MINIMIZE" else -1

    def start(self, run_dir: Any, config: dict[str, Any]) -> None:
        pass

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        loss = values.get("held_out_loss")
        if loss is None:
            return
        self.trial.report(self._sign * loss, step)
        if self.trial.should_prune():
            from optuna.trial import TrialState

            self.trial.study.tell(self.trial, state=TrialState.PRUNED)
            raise Pruned(f"pruned at step {step}, with a checkpoint: its held-out loss is {loss:.4g}")


def pruner_of_job() -> Pruner | None:
    """The pruner of this process's job; None if it is no job of a search with a pruner."""
    hydra = HydraConfig.get()
    settings = hydra.sweeper
    if "pruner" not in settings or settings.pruner.name == "none":
        return None
    from optuna import Trial
    from optuna.trial import TrialState

    study, own = open_study(settings), job_name(sweep_directory(), hydra.job.num)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    (trial,) = (t for t in running if t.user_attrs.get("job") == own)
    return Pruner(Trial(study, trial._trial_id))
