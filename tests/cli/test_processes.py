"""Several processes of one command, and interruptions before it has begun."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed
from omegaconf import OmegaConf

from scoresde.cli import COMMANDS, application, main, processes
from scoresde.cli.command_line import CommandLine
from scoresde.training.interruptions import Stopped

pytestmark = pytest.mark.slow

TOY = ["experiment=ring", "network.width=16", "progress=false"]


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "time", SimpleNamespace(sleep=lambda seconds: None))


def second_of_two(monkeypatch: pytest.MonkeyPatch, names: tuple[str, str] = ("RANK", "WORLD_SIZE")) -> None:
    for name, value in zip(names, ("1", "2"), strict=True):
        monkeypatch.setenv(name, value)


# `suggest` and `encode` take no run.
@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in (*processes.SHARED, "suggest", "encode")])
def test_the_first_process_alone_does_what_is_not_shared(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "run=nowhere"])
    assert stop.value.code == (1 if command == "report" else 2)
    assert "nowhere does not exist" in capsys.readouterr().err
    second_of_two(monkeypatch, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
    main([command, "run=nowhere"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", [c for c in processes.SHARED if c not in ("train", "certify")])
def test_what_is_wrong_with_shared_work_is_said_once(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second_of_two(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        main([command, "run=nowhere"])
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("sweep", [["-m", "sde=vp,ve"], ["-m", "hydra/sweeper=optuna", "optimizer.lr=interval(0,1)"]])
def test_a_sweep_of_several_processes_is_refused_once(
    rank: int, sweep: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        main(["train", *TOY, *sweep])
    assert stop.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"scoresde: --multirun is for one process, and there are 2: .*\n" if rank == 0 else "", error)
    assert not os.listdir()


def command(*arguments: str, launcher: tuple[str, ...] = ("-m",)) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [sys.executable, *launcher, "scoresde.cli", *arguments],
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# The interpreter itself takes some tenths of a second, in which nobody else can answer.
@pytest.mark.parametrize("module", ["hydra", "torch", "scoresde.runs.train"])
def test_an_interruption_of_imports_ends_without_a_traceback(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background has set to be ignored

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
""")
    sys_path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "scoresde.cli", "train", *TOY],
        env={**os.environ, "PYTHONPATH": sys_path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGINT
    assert (done.stdout, done.stderr) == ("", "\nscoresde: interrupted\n")
    assert not Path("runs").exists()


def test_interruptions_are_left_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        main(["report", "nowhere"])
    assert signal.getsignal(signal.SIGINT) is before


def test_the_process_that_is_gone_is_named_by_those_that_are_left() -> None:
    """Two processes import torch and talk by gloo: slow."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    process = command(
        "train", *TOY, "training.steps=100000", "training.checkpoint_every=20", "name=run", launcher=torchrun
    )
    give_up = time.monotonic() + 300
    second: list[int] = []
    while not (second and list(Path("runs/run/checkpoints").glob("*.pt"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        second = [int(c) for c in children if b"\0RANK=1\0" in Path(f"/proc/{c}/environ").read_bytes()]
        time.sleep(0.1)
    os.kill(second[0], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    own = [line for line in error.splitlines() if line.startswith("scoresde: ")]
    assert own == ["scoresde: process 1 of 2 has ended, so the others end, too: the newest checkpoint is kept"]
    assert "gloo" not in error


@pytest.mark.parametrize("during", ["unwinding", "handling"])
def test_the_process_that_is_gone_is_named_if_its_launcher_interrupts(
    during: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher's SIGTERM arrives after the error of communication, and before that is told from others."""
    dist = torch.distributed
    store = dist.HashStore()  # type: ignore[attr-defined]
    for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", 2)):
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv("WORLD_SIZE", "2")
    interruptions = iter([Stopped(signal.SIGTERM)])

    def task(config: object) -> None:
        try:
            raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
        finally:
            if during == "unwinding":
                raise next(interruptions)

    def lost(error: BaseException) -> str | None:
        if during == "handling" and not isinstance(error, Stopped):
            raise next(interruptions)
        return processes.lost(error)

    monkeypatch.setattr(application, "lost", lost)
    with pytest.raises(SystemExit) as stop:
        application._run_alone(lambda: application._alone(task, OmegaConf.create()), CommandLine.of("train", []))
    assert stop.value.code == 1
    _, error = capsys.readouterr()
    assert error == "scoresde: process 1 of 2 has ended, so the others end, too: the newest checkpoint is kept\n"
