"""Sweeps with every launcher, their failures, repeats, and going on."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.plugins import Plugins
from joblib.externals.loky import get_reusable_executor

from scoresde.cli import commands, launchers, main, sweep_end
from scoresde.cli.command_line import CommandLine
from scoresde.cli.commands.new_run import new_directory
from scoresde.cli.console import UsageError
from scoresde.cli.jobs import note_lost, read_jobs
from scoresde.cli.processes import leave_at_once
from scoresde.cli.sweep_end import conclude, unfinished
from scoresde.cli.sweeps import expand_repeats, make_directory, requeue
from scoresde.config.jobs import has_ended, settled, this_process
from scoresde.options.errors import ConfigError
from scoresde.report.sweep_page import sweep_page
from scoresde.runs.directory import Run
from scoresde.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

TOY = [
    "data=two_moons",
    "+data.n_train=100",
    "+data.n_test=20",
    "network=mlp",
    "network.width=8",
    "network.blocks=1",
    "network.embedding.dim=8",
    "training.steps=4",
    "training.batch_size=16",
    "training.warmup=2",
    "training.log_every=1",
    "evaluation.samples=0",
    "evaluation.likelihood=4",
    "evaluation.tol=1",
    "evaluation.pictures=false",
    "sampler.grid.steps=3",
    "progress=false",
]
FOUR = ["sde=vp,ve", "objective=denoising,likelihood"]


@pytest.fixture
def run_a() -> None:
    """A directory that commands whose work is replaced take for that of a run."""
    Path("a").mkdir()
    Path("a/config.yaml").touch()


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("ACCELERATE_USE_CPU", "true"), ("WANDB_MODE", "offline"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SCORESDE_TRACEBACK", raising=False)


@pytest.fixture(scope="module")
def _folder_of_joblib(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """joblib keeps its processes, which take seconds to start, and those their working directory."""
    yield tmp_path_factory.mktemp("joblib")
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def joblib(_folder_of_joblib: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The overrides that choose joblib, in the working directory of its processes, without earlier runs."""
    monkeypatch.chdir(_folder_of_joblib)
    shutil.rmtree("runs", ignore_errors=True)
    return ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def status_of(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def sweep() -> Path:
    """The directory of the newest sweep."""
    return max(Path("runs/sweeps").iterdir())


def records() -> list[dict[str, Any]]:
    return read_jobs(sweep())


def runs() -> list[Path]:
    return sorted(path for path in Path("runs").iterdir() if (path / "config.yaml").is_file())


def check(number: int = 4, allow: Sequence[str] = ()) -> None:
    """So many jobs have trained so many runs."""
    assert [job["status"] for job in records()] == ["finished"] * number
    assert [job["number"] for job in records()] == list(range(number))
    made = {(sweep() / job["run"]).resolve() for job in records()}
    assert made == {path.resolve() for path in runs()}
    assert len(made) == number
    for job in records():
        summary = Run.open(sweep() / job["run"], allow).summary()
        assert summary["training"]["steps"] == 4
        assert job["value"] == -summary["likelihood"]["nats"]
    assert (sweep() / "report.html").is_file()


def test_a_failed_job_is_named_and_a_repeated_sweep_does_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", *TOY, "--multirun", "sde=vp,ve", "network.num_classes=null,5"]
    assert status_of(*arguments) == 1
    out, error = capsys.readouterr()
    assert [job["status"] for job in records()] == ["finished", "failed", "finished", "failed"]
    assert "2 of 4 jobs finished" in out
    table = [line.split() for line in out.splitlines() if re.match(r" +[0-3]  sde", line)]
    assert [row[3] for row in table] == ["finished", "failed", "finished", "failed"]
    assert "Traceback" not in out + error
    assert len(re.findall(r"^scoresde: job [13] failed: network.num_classes is 5 .*jobs/00[13].log", error, re.M)) == 2
    log = (sweep() / "jobs" / "001.log").read_text()
    assert "Traceback" in log
    assert "ConfigError: network.num_classes is 5" in log
    assert "Traceback" not in (sweep() / "jobs" / "000.log").read_text()
    before = {path: (path / "model.safetensors").stat().st_mtime_ns for path in runs()}
    assert len(before) == 2
    arguments[-1] = "network.num_classes=null,2"
    assert status_of(*arguments) == 0
    assert [job["status"] for job in records()] == ["skipped", "finished", "skipped", "finished"]
    assert len(runs()) == 4
    assert all((path / "model.safetensors").stat().st_mtime_ns == then for path, then in before.items())


def test_an_error_in_the_code_does_not_end_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def task(config: Any) -> None:
        if config.seed == 1:
            raise RuntimeError("index\nout of range")
        done.append(config.seed)

    monkeypatch.setitem(commands.TASKS, "sample", task)
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "somewhere" / "config.yaml").touch()
    assert status_of("sample", "run=somewhere", "seed=0,1,2", "-m") == 1
    assert done == [0, 2]
    assert "job 1 failed: RuntimeError: index out of range" in capsys.readouterr().err
    assert "in task" in (sweep() / "jobs" / "001.log").read_text()


def test_fail_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: Any) -> None:
        raise ValueError("no")

    monkeypatch.setitem(commands.TASKS, "sample", task)
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "somewhere" / "config.yaml").touch()
    assert status_of("sample", "run=somewhere", "seed=0,1,2", "-m", "fail_fast=true") == 1
    assert [job["status"] for job in records()] == ["failed", "not started", "not started"]
    assert "0 of 3 jobs finished" in capsys.readouterr().out


def test_joblib(joblib: list[str]) -> None:
    assert status_of("train", *TOY, "-m", "sde=vp,ve,edm", *joblib) == 0
    check(3)  # more jobs than processes


def test_likelihoods_of_a_sweep_are_kept_apart(joblib: list[str]) -> None:
    assert status_of("train", *TOY, "name=one") == 0
    before = Run.open("runs/one").summary()["likelihood"]
    sweep_of = ["tol=0.5,2", "seed=3", "progress=false", "-m", *joblib]
    assert status_of("likelihood", "runs/one", "n=6", "batch_size=1", *sweep_of) == 0
    files = sorted(path.name for path in Path("runs/one").glob("likelihood-test-*.csv"))
    assert files == ["likelihood-test-tol0.5-seed3.csv", "likelihood-test-tol2-seed3.csv"]
    for job, file in zip(records(), files, strict=True):
        lines = (Path("runs/one") / file).read_text().splitlines()
        assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(6)]
        assert job["value"] == pytest.approx(sum(float(line.split(",")[1]) for line in lines[1:]) / 6)
    assert Run.open("runs/one").summary()["likelihood"] == before


PREEMPTED = """
import os
import signal
from pathlib import Path
from typing import Any

from scoresde.training.loggers import Logger


class Preempted(Logger):
    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        pass

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        if step == 2 and not Path("preempted").exists():
            Path("preempted").touch()
            os.kill(os.getpid(), signal.SIGTERM)  # as Slurm sends them to a job that submitit watches over
            os.kill(os.getpid(), signal.SIGUSR2)
"""


def test_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two jobs is to make room: it is requeued, and goes on from its checkpoint."""
    (tmp_path / "preempted_job.py").write_text(PREEMPTED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.syspath_prepend(tmp_path)
    logger = ["+logger.own._target_=preempted_job.Preempted", "allow=[preempted_job]"]
    often = ["training.checkpoint_every=null", "resume=false"]
    # Each job is a process of its own, so that more of them would show no more.
    assert status_of("train", *TOY, *logger, *often, "-m", "sde=vp,ve", "hydra/launcher=submitit_local") == 0
    check(2, allow=["preempted_job"])
    said = [(sweep() / "jobs" / job["log"]).read_text() for job in records()]
    (first,) = (number for number, text in enumerate(said) if "resuming from" in text)
    run = sweep() / records()[first]["run"]
    assert re.search(r"resuming from .*/step-000000002\.pt", said[first])
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 4]


def test_ray() -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'scoresde[ray]'")
    assert status_of("train", *TOY, "-m", *FOUR, "hydra/launcher=ray") == 0
    check()


OPTUNA = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4"]


def test_optuna(capsys: pytest.CaptureFixture[str]) -> None:
    import optuna

    wide = "optimizer.lr=tag(log,interval(1e-4,1e-2))"
    assert status_of("train", *TOY, *OPTUNA, wide, "sde=vp,ve") == 0
    check()
    storage = "sqlite:///runs/optuna.db"
    study = optuna.load_study(study_name="scoresde", storage=storage)
    assert [trial.value for trial in study.trials] == [job["value"] for job in records()]
    assert study.best_value == min(job["value"] for job in records())
    assert all(1e-4 <= trial.params["optimizer.lr"] <= 1e-2 for trial in study.trials)
    assert (
        f"best: {study.best_value:.6g} with optimizer.lr={study.best_params['optimizer.lr']}" in capsys.readouterr().out
    )
    # Of another search space, and of other settings.
    for change in (["optimizer.lr=interval(1e-4,1e-3)", "sde=vp,ve"], [wide, "sde=vp,ve", "training.warmup=1"]):
        assert status_of("train", *TOY, *OPTUNA, *change) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(r"study 'scoresde' of sqlite:///runs/optuna.db has .*hydra.sweeper.study_name=NAME", error)
    assert status_of("train", *TOY, *OPTUNA) == 2
    assert "has nothing to search" in capsys.readouterr().err
    assert len(optuna.load_study(study_name="scoresde", storage=storage).trials) == 4


def test_optuna_with_repeats_optimises_their_mean() -> None:
    one = [o.replace("n_trials=4", "n_trials=1") for o in OPTUNA]
    assert status_of("train", *TOY, *one, "sde=vp,ve", "repeats=2") == 0
    (job,) = records()
    values = [-Run.open(sweep() / run).summary()["likelihood"]["nats"] for run in job["runs"]]
    assert len(set(values)) == 2
    assert job["value"] == pytest.approx(sum(values) / 2, rel=1e-12)


def test_repeats_differ_in_the_seed() -> None:
    assert status_of("train", *TOY, "repeats=3", "training.seed=5") == 0
    assert sorted(Run.open(path).config.training.seed for path in runs()) == [5, 6, 7]
    assert len({Run.open(path).summary()["likelihood"]["nats"] for path in runs()}) == 3
    # They count as one configuration in the report.
    assert "repeats" in (sweep() / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["repeats=2"], ["--multirun", "training.seed=0,1"]),
        (["-m", "repeats=2", "sde=vp,ve"], ["--multirun", "sde=vp,ve", "training.seed=0,1"]),
        (["repeats=1"], ["repeats=1"]),
        (["repeats=2", "hydra/sweeper=optuna"], ["repeats=2", "hydra/sweeper=optuna"]),
    ],
)
def test_repeats_become_seeds(given: list[str], expected: list[str]) -> None:
    assert expand_repeats(CommandLine.of("train", given)).arguments == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["repeats=0"], "repeats is 0, expected an integer of at least 1"),
        (["repeats=1.5"], "repeats is 1.5"),
        (["repeats=1000000000000"], "repeats is 1000000000000, the limit is 10,000: give fewer"),
        (["repeats=1,2", "-m"], "expected one number of repeats"),
        (["repeats=2", "training.seed=1,2", "-m"], "give one seed, the first"),
        (["repeats=2", "training.seed=true"], "give one seed, the first"),
        (["repeats=2", "run=runs/a"], "is of new runs: leave out run"),
    ],
)
def test_repeats_that_cannot_be(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        expand_repeats(CommandLine.of("train", given))


KILLED = "its process ended without a word, as when memory runs out"


def gone() -> dict[str, Any]:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    described = {**this_process(), "pid": process.pid}
    process.wait()
    return described


def record(directory: Path, number: int, status: str, process: dict[str, Any] | None, **more: Any) -> None:
    entry = {"number": number, "overrides": [f"seed={number}"], "status": status, "run": None, "runs": [], "log": None,
             "error": None, "seconds": 3.0, "value": None, "unit": "", "process": process, **more}  # fmt: skip
    (directory / "jobs").mkdir(exist_ok=True)
    (directory / "jobs" / f"{number:03d}.json").write_text(json.dumps(entry))


def test_what_is_said_of_jobs_whose_processes_are_gone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dead = gone()
    others = {**dead, "pid": dead["pid"] + 2**20}
    record(tmp_path, 0, "finished", dead, value=0.5, unit="frechet_distance")
    record(tmp_path, 1, "running", others)
    record(tmp_path, 2, "running", dead, log="002.log")
    record(tmp_path, 3, "running", others)
    record(tmp_path, 4, "waiting", this_process())
    record(tmp_path, 5, "waiting", this_process())
    assert conclude(tmp_path, 1, 6, "again", [{1}, {dead["pid"]}, {others["pid"]}]) == 1
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines() if re.match(r" +\d  seed", line)]
    assert [row[2] for row in rows] == ["finished", "stopped", "killed", "stopped", "not", "not"]
    assert rows[0][2:5] == ["finished", "3", "s"]
    assert "1 of 6 jobs finished" in said.out
    expected = [
        f"job 2 killed: {KILLED} ({tmp_path}/jobs/002.log)",
        "jobs 1, 3 stopped: the launcher ends all its processes once one is gone",
        "jobs 4-5 not started: the sweep ended before its turn",
    ]
    assert said.err.splitlines() == [*(f"scoresde: {line}" for line in expected), "again"]
    assert unfinished(tmp_path) == expected  # at any later time
    assert status_of("report", str(tmp_path)) == 0
    assert capsys.readouterr().err.splitlines() == [f"scoresde: {line}" for line in expected]


def test_a_job_without_a_launcher_s_news_was_killed_if_its_process_is_gone(tmp_path: Path) -> None:
    for number, process in enumerate((None, gone())):  # None of an earlier version
        record(tmp_path, number, "running", process)
    assert conclude(tmp_path, 0) == 1
    assert [job["status"] for job in read_jobs(tmp_path)] == ["killed", "killed"]


def test_whether_a_job_still_runs(tmp_path: Path) -> None:
    own = this_process()
    assert has_ended(own) is False
    assert has_ended({**own, "began": own["began"] - 100}) is True  # its number is used again
    assert has_ended(gone()) is True
    assert has_ended({**own, "host": "another"}) is None
    for damaged in (None, {}, {**own, "pid": "x"}, {**own, "pid": -1}, {**own, "pid": 2**80}, {**own, "began": None}):
        assert has_ended(damaged) in (None, True)
    record(tmp_path, 0, "running", own)
    record(tmp_path, 1, "running", {**own, "host": "another"})
    record(tmp_path, 2, "waiting", own)
    assert [settled(job)["status"] for job in read_jobs(tmp_path)] == ["running", "running", "waiting"]
    assert settled(read_jobs(tmp_path)[1])["error"].startswith("on another: whether it still runs")


DEADLY = """
import os
import signal
import time
from pathlib import Path
from typing import Any

from scoresde.training.loggers import Logger


class Deadly(Logger):
    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        self.sde = config["sde"]["_target_"].rpartition(".")[2]

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        if self.sde == "VESDE":
            while not list(Path("runs/sweeps").glob("*/jobs/002.log")):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.sde == "SubVPSDE":
            time.sleep(60)
"""


def test_jobs_of_slurm_do_not_end_with_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    with (
        pytest.raises(SystemExit, match="129"),
        leave_at_once(),
        launchers.ending_in_order("submitit_slurm", Path("runs/a b")),
    ):
        signal.raise_signal(signal.SIGHUP)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "scoresde: interrupted by SIGHUP: Slurm's jobs continue (scancel ends them), and scoresde report "
        "'runs/a b' says how they do"
    )


@pytest.mark.parametrize(
    ("given", "added"),
    [
        (["hydra/launcher=submitit_slurm"], ["hydra.launcher.max_num_timeout=1000"]),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.max_num_timeout=0"], []),
        (["hydra/launcher=submitit_local"], ["hydra.launcher.timeout_min=43200"]),
        (["hydra/launcher=joblib"], []),
        ([], []),
    ],
)
def test_jobs_are_requeued_as_often_as_it_takes(given: list[str], added: list[str]) -> None:
    line = requeue(CommandLine.of("train", ["-m", "sde=vp,ve", *given]))
    assert line.texts == ["sde=vp,ve", *given, *added]


def test_a_signal_has_the_jobs_of_joblib_end_with_checkpoints(
    joblib: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        give_up = time.monotonic() + 120
        while len(list(Path("runs").glob("*/metrics.jsonl"))) < 2 and time.monotonic() < give_up:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    endless = ["training.steps=10000000", "training.checkpoint_every=null"]
    assert status_of("train", *TOY, *endless, "-m", "sde=vp,ve,subvp", *joblib) == 128 + signal.SIGTERM
    thread.join()
    assert [job["status"] for job in records()] == ["interrupted", "interrupted", "not started"]
    for job in records()[:2]:
        step = re.fullmatch(r"interrupted at step (\d+), with a checkpoint", job["error"])
        assert step, job["error"]
        assert (sweep() / job["run"] / "checkpoints" / f"step-{int(step[1]):09d}.pt").is_file()
    out, error = capsys.readouterr()
    assert "0 of 3 jobs finished" in out
    assert error.splitlines()[-1] == "the same command resumes: finished jobs are not repeated"


def test_a_killed_process_of_joblib(
    joblib: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("deadly.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), *sys.path]))
    monkeypatch.syspath_prepend(os.getcwd())
    get_reusable_executor().shutdown(wait=True)  # its processes would not see the module
    own = ["+logger.own._target_=deadly.Deadly", "allow=[deadly]"]
    assert status_of("train", *TOY, "-m", "sde=vp,ve,subvp,edm", *own, *joblib) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert [job["status"] for job in records()] == ["finished", "killed", "stopped", "not started"]
    assert "1 of 4 jobs finished" in said.out
    assert f"scoresde: job 1 killed: {KILLED} ({sweep()}/jobs/001.log)\n" in said.err
    assert "scoresde: the launcher gave up: TerminatedWorkerError: " in said.err
    assert (sweep() / "report.html").is_file()
    assert unfinished(sweep())[1:] == [
        "job 2 stopped: the launcher ends all its processes once one is gone",
        "job 3 not started: the sweep ended before its turn",
    ]


def test_a_launcher_that_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Hydra loads its plugins a second time, as modules of its own.
    launcher = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    launch = launcher.launch  # type: ignore[attr-defined]

    def gives_up(self: Any, overrides: Any, initial_job_idx: int) -> None:
        launch(self, overrides[:1], initial_job_idx)
        raise RuntimeError("The actor died\nunexpectedly. Its worker was\nkilled.")

    monkeypatch.setattr(launcher, "launch", gives_up)
    monkeypatch.setitem(commands.TASKS, "sample", lambda config: None)
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "somewhere" / "config.yaml").touch()
    assert status_of("sample", "run=somewhere", "seed=0,1,2", "-m") == 1
    said = capsys.readouterr()
    assert "1 of 3 jobs finished" in said.out
    assert said.err.splitlines() == [
        "scoresde: the launcher gave up: RuntimeError: The actor died unexpectedly",
        "scoresde: jobs 1-2 not started: the sweep ended before its turn",
        "the same command resumes: finished jobs are not repeated",
    ]


def test_a_killed_process_of_submitit(tmp_path: Path) -> None:
    import submitit

    told: list[tuple[int, str, Path]] = []
    executor = submitit.LocalExecutor(tmp_path / "%j")
    with launchers.tended("submitit_local", lambda *news: told.append(news)):
        dies = executor.submit(lambda *given: os.kill(os.getpid(), signal.SIGKILL), [], "", 7)
        fails = executor.submit(lambda *given: 1 / 0, [], "", 8)
        assert executor.submit(lambda *given: given[2], [], "", 9).results() == [9]
        (lost,) = dies.results()
        assert lost.return_value is None  # type: ignore[attr-defined]
        fails.results()
    assert [number for number, _, _ in told] == [7, 8]
    assert told[1][1] == "ZeroDivisionError: division by zero"
    with pytest.raises(submitit.core.utils.FailedJobError):
        fails.results()
    record(tmp_path, 7, "running", this_process())
    record(tmp_path, 8, "waiting", this_process())
    note_lost(tmp_path, 9, "no node", tmp_path / "none")  # one that was not announced
    assert unfinished(tmp_path)[0] == "job 9 failed: it ended before it began: no node"
    (tmp_path / "jobs" / "009.json").unlink()
    for news in told:
        note_lost(tmp_path, *news)
    killed, failed = unfinished(tmp_path)
    assert killed == f"job 7 killed: {KILLED}"
    assert failed.startswith("job 8 failed: it ended before it began: ZeroDivisionError: division by zero (")
    assert Path(failed.rpartition("(")[2].rstrip(")")).is_file()


SLOW = """
import time
from pathlib import Path
from typing import Any

from scoresde.training.loggers import Logger


class Slow(Logger):
    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        pass

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        time.sleep(0.3)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_was_stopped_goes_on_when_repeated(
    signum: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_logger.py").write_text(SLOW)
    slow = ["+logger.own._target_=slow_logger.Slow", "allow=[slow_logger]", "training.checkpoint_every=1"]
    arguments = ["train", *TOY, "-m", "sde=vp,ve,subvp", "training.steps=8", *slow]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "scoresde.cli", *arguments]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.monotonic() + 120
    while not list(Path("runs").glob("*-ve-*/checkpoints/step-000000003.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signum)
    out, error = process.communicate(timeout=60)
    first = next(Path("runs").glob("*-vp-*"))
    second = next(Path("runs").glob("*-ve-*"))
    if signum == signal.SIGINT:
        assert process.returncode == 128 + signum
        assert "1 of 3 jobs finished" in out
        assert "the same command resumes" in error
        assert "Traceback" not in out + error
        assert [job["status"] for job in records()] == ["finished", "interrupted", "not started"]
    else:  # nobody was left to say so at the end
        assert unfinished(sweep()) == [
            f"job 1 killed: {KILLED} ({sweep()}/jobs/001.log)",
            "job 2 not started: the sweep ended before its turn",
        ]
        page = sweep_page(sweep())
        assert "jobs: 1 finished, 1 killed, 1 not started" in page
    model = (first / "model.safetensors").stat().st_mtime_ns
    begun = {path.name: path.stat().st_mtime_ns for path in (second / "checkpoints").iterdir()}
    assert not (second / "model.safetensors").exists()
    shutil.rmtree("runs/sweeps")
    # Nothing waits for these steps.
    (tmp_path / "slow_logger.py").write_text(SLOW.replace("time.sleep(0.3)", "pass"))
    if signum == signal.SIGKILL:
        again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert again.returncode == 0, again.stderr
        said = again.stdout + again.stderr
    else:  # this process is another than the one that was stopped, and need not start
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "slow_logger", raising=False)
        assert status_of(*arguments) == 0
        said = (sweep() / "jobs" / "001.log").read_text()
    assert [job["status"] for job in records()] == ["skipped", "finished", "finished"]
    assert (first / "model.safetensors").stat().st_mtime_ns == model
    steps = [json.loads(line)["step"] for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 9), 8]
    # What it went on from was not trained again: the newest checkpoint of before is older than those after it.
    latest = max(begun)
    assert load_checkpoint(second / "checkpoints" / "step-000000008.pt")["step"] == 8
    assert latest < "step-000000008.pt"
    assert f"checkpoints/{latest}" in said


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    run, other = (Run(tmp_path / "run", OmegaConf.create({})) for _ in range(2))
    with (
        run.alone("training"),
        pytest.raises(ConfigError, match="is in use by another process"),
        other.alone("training"),
    ):
        pass
    with other.alone("training"):
        pass
    assert not (tmp_path / "run").exists()  # nothing was written


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra/launcher=joblib", r"needs a package that is not installed: pip install 'scoresde\[sweep\]'"),
        ("hydra/launcher=submitit_slurm", r"pip install 'scoresde\[sweep\]'"),
        ("hydra/launcher=ray", r"pip install 'scoresde\[ray\]'"),
        ("hydra/sweeper=optuna", r"pip install 'scoresde\[sweep\]'"),
        ("hydra/launcher=joblob", "hydra/launcher has no choice 'joblob', did you mean 'joblib'"),
    ],
)
def test_what_is_not_installed(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scoresde.cli.sweeps.find_spec", lambda name: None)
    assert status_of("train", *TOY, "-m", "sde=vp,ve", override) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-m", "sde=vp,ve", "name=a"], "name=a would be the name of every job"),
        (["train", "-m", "sde=vp,ve", "--cfg", "job"], "--cfg shows the configuration of one job"),
        (["train", "hydra/launcher=joblib"], "hydra/launcher=joblib is for several jobs: add --multirun"),
        (["train", "-m", "sde=vp,ve", "hydra.sweep.dir='a_${now:%H}'"], "hydra.sweep.dir is .*, expected a plain path"),
        (["train", "-m", "sde=vp,ve", "hydra.launcher.n_job=2"], "n_job"),
        (["sample", "somewhere", "seed=x"], "seed is 'x', expected an integer"),
        (["report", "somewhere", "pictures=maybe"], "pictures is 'maybe', expected true or false"),
        (["report", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_about_sweeps_are_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(*arguments) in (1, 2)
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert error.startswith("scoresde: ")
    assert not list(Path().glob("*/config.yaml"))


@pytest.mark.usefixtures("run_a")
def test_a_directory_of_an_earlier_sweep_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(commands.TASKS, "sample", lambda config: None)
    assert status_of("sample", "run=a", "-m", "seed=0,1,2", "hydra.sweep.dir=here") == 0
    assert status_of("sample", "run=a", "-m", "seed=0,1", "hydra.sweep.dir=here", "fail_fast=true") == 0
    assert "2 of 2 jobs finished: here" in capsys.readouterr().out


@pytest.mark.usefixtures("run_a")
def test_a_folder_of_the_user_s_own_keeps_its_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(commands.TASKS, "sample", lambda config: None)
    own = [Path("here/jobs", name) for name in ("slurm.json", "12.csv", "a/000.json")]
    own[-1].parent.mkdir(parents=True)
    for path in own:
        path.write_text("[]")
    for _ in range(2):
        assert status_of("sample", "run=a", "-m", "seed=0,1", "hydra.sweep.dir=here") == 0
    assert "2 of 2 jobs finished: here" in capsys.readouterr().out
    assert all(path.is_file() for path in own)


@pytest.mark.usefixtures("run_a")
def test_a_full_disk_at_the_end_of_a_sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "here/report.html")

    monkeypatch.setitem(commands.TASKS, "sample", lambda config: None)
    monkeypatch.setattr(sweep_end, "_report", full)
    assert status_of("sample", "run=a", "-m", "seed=0,1", "hydra.sweep.dir=here") == 1
    said = capsys.readouterr()
    assert "2 of 2 jobs finished: here" in said.out
    assert said.err == "scoresde: No space left on device (here/report.html): what was complete is kept\n"
    assert not Path("here/sweep.lock").exists()


@pytest.mark.usefixtures("run_a")
def test_two_sweeps_at_once_in_one_directory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def task(config: Any) -> None:
        before = {path: path.read_bytes() for path in Path("here/jobs").iterdir()}
        with pytest.raises(UsageError, match="^here is in use by another sweep: let it end first"):
            make_directory(CommandLine.of("train", ["hydra.sweep.dir=here"]))
        assert {path: path.read_bytes() for path in Path("here/jobs").iterdir()} == before

    monkeypatch.setitem(commands.TASKS, "sample", task)
    assert status_of("sample", "run=a", "-m", "seed=0,1", "hydra.sweep.dir=here") == 0
    assert "2 of 2 jobs finished: here" in capsys.readouterr().out
    assert not Path("here/sweep.lock").exists()


def test_two_sweeps_at_once_have_directories_of_their_own() -> None:
    made = [make_directory(CommandLine.of("train", ["runs=there"]))[1] for _ in range(3)]
    assert len(set(made)) == 3
    assert all(path.parent == Path("there/sweeps") for path in made)


def test_the_same_configuration_is_found_by_whatever_choices_it_was_named() -> None:
    assert status_of("train", *TOY, "-m", "objective=likelihood") == 0
    (first,) = runs()
    assert status_of("train", "sde=vp", *TOY, "-m", "objective=likelihood") == 0
    assert runs() == [first]
    assert [job["status"] for job in records()] == ["skipped"]


def test_optuna_without_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("train", *TOY, *OPTUNA, "sde=vp,ve", "metric=frechet_distance") == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "metric=frechet_distance needs evaluation.samples, which is 0" in error
    assert "no trial has a value: see the jobs" in error


def test_a_pipe_that_is_closed(tmp_path: Path) -> None:
    for arguments in ("list samplers", "sample --help", "train --cfg job"):
        line = f"{sys.executable} -m scoresde.cli {arguments} | head -1"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""


def test_runs_that_begin_at_once_take_the_next_free_name(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_directory(tmp_path / "runs", "a"), range(8)))
    assert {path.name for path, _ in made} == {"a", *(f"a-{i}" for i in range(2, 9))}
    assert all(folders[0] == path and path.is_dir() for path, folders in made)


def test_a_run_that_is_refused_leaves_no_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("train", *TOY, "evaluation.samples=4", "runs=there/runs", "name=a") == 1
    assert "sample quality needs at least" in capsys.readouterr().err
    assert not Path("there").exists()


def test_relative_paths_are_of_where_the_command_was_started(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("mine.npz", x=np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32))
    own = ["data=npz", "data.path=mine.npz", *(o for o in TOY if "data" not in o), "hydra.job.chdir=true"]
    swept = ["-m", "network.num_classes=null,5", "hydra.sweep.subdir='job${hydra.job.num}'"]
    assert status_of("train", *own, *swept) == 1
    assert [job["status"] for job in records()] == ["finished", "failed"]
    out = capsys.readouterr().out
    assert f"1 of 2 jobs finished: {sweep()}" in out
    (run,) = runs()
    assert f"{run}\n" in out  # of the table
    assert (sweep() / "report.html").is_file()
    assert (sweep() / "job1").is_dir()
    assert Run.open(run).config.data.path == "mine.npz"
    moved = ["hydra.job.chdir=true", "hydra.run.dir=out", "progress=false"]
    assert status_of("likelihood", str(run), "data=npz", "data.path=mine.npz", "n=2", "tol=1", *moved) == 0
    assert len(list(run.glob("likelihood-*-mine-*.csv"))) == 1
    assert status_of("sample", str(run), "n=2", "sampler.grid.steps=3", *moved) == 0
    assert status_of("report", str(run), *moved[:2]) == 0
    assert (run / "report.html").is_file()
    assert list(Path("out").iterdir()) == []
