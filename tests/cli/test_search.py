"""Searches by a study: trials that are told, abandoned, tried again and pruned, whatever launches them."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from scoresde.cli.pruning import Pruned, Pruner
from scoresde.cli.samplers import PRUNERS, SAMPLERS, pruner_of, sampler_of
from scoresde.cli.search import divided, grid_of, open_study, search
from scoresde.config.jobs import this_process
from scoresde.options.errors import ConfigError

optuna = pytest.importorskip("optuna")

SPACE = ["x=interval(-2.0,2.0)", "kind=near,far", "fixed=1"]


class Recorder:
    """A launcher that computes the value of each job from its overrides, here."""

    def __init__(self, value: Callable[[dict[str, str]], Any]) -> None:
        self.value, self.batches = value, []  # type: ignore[var-annotated]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        jobs = [dict(o.split("=", 1) for o in overrides) for overrides in job_overrides]
        self.batches.append((initial_job_idx, jobs))
        found = []
        for job in jobs:
            returned = JobReturn(status=JobStatus.COMPLETED)
            returned.return_value = self.value(job)
            found.append(returned)
        return found


def settings(folder: Path, **more: Any) -> DictConfig:
    sweeper = {
        "study_name": "a",
        "storage": f"sqlite:///{folder}/optuna.db",
        "direction": "minimize",
        "n_trials": 12,
        "n_jobs": None,
        "max_failure_rate": 1.0,
        "sampler": {"name": "tpe", **SAMPLERS["tpe"][1], "seed": 0},
        "pruner": {"name": "none"},
    }
    launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    return OmegaConf.create(
        {"sweeper": {**sweeper, **more}, "launcher": launcher, "sweep": {"dir": str(folder / "sweep")}}
    )


def far(job: dict[str, str]) -> float:
    assert job["fixed"] == "1"
    return float(job["x"]) ** 2 + (job["kind"] == "far")


def test_a_study_is_told_the_values_of_its_trials(tmp_path: Path) -> None:
    launcher = Recorder(far)
    hydra = settings(tmp_path, n_trials=30, n_jobs=4)
    search(hydra, launcher, SPACE)  # type: ignore[arg-type]
    assert [(first, len(jobs)) for first, jobs in launcher.batches] == [
        (0, 4), (4, 4), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4), (28, 2)
    ]  # fmt: skip
    study = open_study(hydra.sweeper)
    jobs = [job for _, batch in launcher.batches for job in batch]
    assert [trial.value for trial in study.trials] == [far(job) for job in jobs]
    assert study.user_attrs["fixed"] == {"fixed": "1"}
    best = OmegaConf.load(tmp_path / "sweep/optimization_results.yaml")
    assert best.best_value == study.best_value < 0.1
    assert best.best_params == study.best_params


def test_the_same_command_asks_for_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, expected in ((3, 3), (5, 2), (5, 0)):
        launcher = Recorder(far)
        search(settings(tmp_path, n_trials=count), launcher, SPACE)  # type: ignore[arg-type]
        assert sum(len(jobs) for _, jobs in launcher.batches) == expected
    assert "study 'a' has its 5 trials: for more give hydra.sweeper.n_trials" in capsys.readouterr().out


def test_what_a_killed_process_asked_for_is_tried_again(tmp_path: Path) -> None:
    program = f"""
from tests.cli.test_search import *
class Dies(Recorder):
    def launch(self, overrides, initial_job_idx):
        os._exit(9) if initial_job_idx else None
        return super().launch(overrides, initial_job_idx)
search(settings(Path({str(tmp_path)!r}), n_jobs=2), Dies(far), SPACE)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 9
    study = open_study(settings(tmp_path).sweeper)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]
    abandoned = [t.params for t in study.trials[2:]]
    launcher = Recorder(far)
    search(settings(tmp_path, n_jobs=2), launcher, SPACE)  # type: ignore[arg-type]
    again = [{"x": float(job["x"]), "kind": job["kind"]} for _, jobs in launcher.batches for job in jobs]
    assert again[:2] == abandoned
    assert len(again) == 10
    states = [t.state.name for t in open_study(settings(tmp_path).sweeper).trials]
    assert states == ["COMPLETE"] * 2 + ["FAIL"] * 2 + ["COMPLETE"] * 10


def test_a_trial_of_a_process_that_runs_is_left_to_it(tmp_path: Path) -> None:
    space, fixed = divided(SPACE)
    study = open_study(settings(tmp_path).sweeper, space, fixed)
    for process in (this_process(), {**this_process(), "host": "elsewhere", "pid": 1}):
        study.ask(space).set_user_attr("process", process)
    search(settings(tmp_path, n_trials=2), Recorder(far), SPACE)  # type: ignore[arg-type]
    states = [t.state.name for t in open_study(settings(tmp_path).sweeper).trials]
    assert states == ["RUNNING"] * 2 + ["COMPLETE"] * 2


@pytest.mark.parametrize("nothing", [None, float("nan"), "text"])
def test_trials_without_a_value_fail(tmp_path: Path, nothing: Any) -> None:
    launcher = Recorder(lambda job: nothing if job["kind"] == "far" else far(job))
    search(settings(tmp_path), launcher, SPACE)  # type: ignore[arg-type]
    trials = open_study(settings(tmp_path).sweeper).trials
    assert {(t.params["kind"], t.state.name) for t in trials} == {("far", "FAIL"), ("near", "COMPLETE")}
    with pytest.raises(ConfigError, match=r"\d of 4 trials failed, above max_failure_rate: see the jobs"):
        search(settings(tmp_path, n_trials=40, n_jobs=4, max_failure_rate=0.0), launcher, SPACE)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no trial has a value: see the jobs"):
        search(settings(tmp_path, study_name="b"), Recorder(lambda job: None), SPACE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "grid"])
def test_every_sampler_searches(tmp_path: Path, name: str) -> None:
    if name == "cmaes":
        pytest.importorskip("cmaes")
    sampler = {"name": name, **SAMPLERS[name][1], "seed": 0}
    sampler |= {"n_startup_trials": 2} if "n_startup_trials" in sampler else {}
    launcher = Recorder(lambda job: float(job["x"]) ** 2)
    hydra = settings(tmp_path, storage=None, study_name=None, sampler=sampler, n_trials=6)
    search(hydra, launcher, ["x=interval(-2.0,2.0)", "y=interval(0.0,1.0)"])  # type: ignore[arg-type]
    assert len({job["x"] for _, jobs in launcher.batches for job in jobs}) == 6


def test_a_grid_is_gone_through_once(tmp_path: Path) -> None:
    hydra = settings(tmp_path, sampler={"name": "grid", "seed": None}, n_trials=100, n_jobs=4)
    for expected in (6, 0):
        launcher = Recorder(lambda job: float(job["x"]))
        search(hydra, launcher, ["x=1,2,3", "kind=near,far"])  # type: ignore[arg-type]
        found = [(job["x"], job["kind"]) for _, jobs in launcher.batches for job in jobs]
        assert len(set(found)) == len(found) == expected


@pytest.mark.parametrize("name", list(PRUNERS))
def test_every_pruner_is_made(name: str) -> None:
    assert type(pruner_of(OmegaConf.create({"name": name, **PRUNERS[name][1]}))).__name__ == PRUNERS[name][0]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_trial_that_is_behind_the_others_is_pruned(direction: str) -> None:
    space, fixed = divided(SPACE)
    pruner = {"name": "median", **PRUNERS["median"][1], "n_startup_trials": 2}
    study = open_study(OmegaConf.create({**settings(Path()).sweeper, "storage": None, "study_name": None,
                                         "direction": direction, "pruner": pruner}), space, fixed)  # fmt: skip
    for loss in (1.2, 1.1, 1.0):
        trial = study.ask(space)
        watch = Pruner(trial)
        for step in (50, 100):
            watch.numbers(step, {"loss": 0.0, "held_out_loss": loss - step / 1000})
            watch.numbers(step + 1, {"loss": 0.0})
        study.tell(trial, 1.0)
    trial = study.ask(space)
    with pytest.raises(Pruned, match=r"pruned at step 50, with a checkpoint: its held-out loss is 1.5"):
        Pruner(trial).numbers(50, {"held_out_loss": 1.5})
    assert study.trials[-1].state.name == "PRUNED"
    good = Pruner(study.ask(space))
    good.numbers(50, {"held_out_loss": 0.5})


def test_settings_reach_the_sampler() -> None:
    space, _ = divided(["x=1,2"])
    sampler = sampler_of(OmegaConf.create({"name": "tpe", **SAMPLERS["tpe"][1], "n_startup_trials": 3}), grid_of(space))
    assert sampler._n_startup_trials == 3  # type: ignore[attr-defined]
