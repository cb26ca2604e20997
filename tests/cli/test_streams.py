"""Standard streams whose reader is gone: the work goes on, and the exit status is that of the work."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tqdm.auto import tqdm

from scoresde.cli import main, streams
from scoresde.cli.console import print_table
from scoresde.runs.directory import Run

pytestmark = pytest.mark.slow

TOY = [
    "data=two_moons",
    "+data.n_train=100",
    "+data.n_test=20",
    "network=mlp",
    "network.width=8",
    "network.blocks=1",
    "training.steps=4",
    "training.batch_size=16",
    "training.log_every=1",
    "sampler.grid.steps=3",
    "evaluation.samples=0",
    "evaluation.likelihood=0",
    "evaluation.pictures=false",
]


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@contextmanager
def broken(descriptor: Callable[[], int]) -> Iterator[None]:
    """Within, both standard streams are what a process has whose output is such a thing."""
    # No fixture, since pytest captures each phase of a test anew.
    with pytest.MonkeyPatch.context() as monkeypatch, ExitStack() as opened:
        for name in ("stdout", "stderr"):
            number = descriptor()
            opened.callback(os.close, number)
            stream = io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True)
            for known in (name, f"__{name}__"):
                monkeypatch.setattr(sys, known, stream)
        yield


BROKEN = pytest.mark.parametrize("descriptor", [closed_pipe, full_disk])


@BROKEN
def test_streams_without_a_reader_take_what_is_written(
    descriptor: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken(descriptor):
        with pytest.raises(OSError, match="Broken pipe|No space left"):
            print("x", flush=True)
        streams.outlive_readers()
        kept = sys.stdout
        streams.outlive_readers()
        assert sys.stdout is sys.__stdout__ is kept
        print("x" * 100_000, flush=True)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)  # as rich prints to a terminal
        print_table(["name"], [["a"]])
        for _ in tqdm(range(3), mininterval=0):
            pass
        warnings.showwarning("a", UserWarning, "b", 1)
        handler = logging.StreamHandler()
        monkeypatch.setattr(handler, "handleError", lambda record: pytest.fail("a logger's line has failed"))
        handler.emit(logging.makeLogRecord({"msg": "a"}))


def test_a_command_is_done_whoever_reads() -> None:
    with broken(closed_pipe):
        main(["train", *TOY, "name=one"])
        main(["sample", "runs/one", "n=4", "name=few"])
        main(["likelihood", "runs/one", "n=3", "tol=2"])
        main(["report", "runs/one"])
    assert Run.open("runs/one").summary()["finished"]
    assert Path("runs/one/samples/few.npz").is_file()
    assert len(list(Path("runs/one").glob("likelihood-test*.csv"))) == 1


@BROKEN
def test_output_that_is_all_there_is_must_be_complete(descriptor: Callable[[], int]) -> None:
    status: Any = 0
    with broken(descriptor):
        written = sys.stderr = io.StringIO()
        try:
            main(["list"])
        except SystemExit as stop:
            status = stop.code
    full = descriptor is full_disk
    assert status == int(full)
    assert written.getvalue() == ("scoresde: the output is not complete: No space left on device\n" if full else "")


def test_a_stream_keeps_its_settings_and_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "log", "w", encoding="latin-1", errors="replace") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "__stdout__", stream)
        print("before")
        streams.outlive_readers()
        print("é, λ")
        assert (sys.stdout.encoding, sys.stdout.errors) == ("latin-1", "replace")
        sys.stdout.flush()
        assert (tmp_path / "log").read_bytes() == b"before\n\xe9, ?\n"


def test_a_reader_that_is_slow_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(writer, "w", encoding="utf-8") as stream, open(reader, encoding="utf-8") as end:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "__stdout__", stream)
        streams.outlive_readers()
        text = "x" * 200_000 + "\n"
        process = subprocess.Popen(["wc", "-c"], stdin=end, stdout=subprocess.PIPE, text=True)
        print(text, end="", flush=True)
    assert process.communicate()[0].strip() == str(len(text))


def shell(line: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("scoresde", f"{sys.executable} -m scoresde.cli")
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=120)


def test_a_sweep_of_whose_output_one_line_is_read() -> None:
    done = shell(f"scoresde train -m sde=vp,ve {' '.join(TOY)} 2>&1 | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sweep runs/sweeps/")
    records = [json.loads(path.read_text()) for path in Path("runs/sweeps").glob("*/jobs/*.json")]
    assert [record["status"] for record in records] == ["finished"] * 2
    assert len(list(Path("runs/sweeps").glob("*/report.html"))) == 1


def test_closed_streams_do_not_become_the_next_file() -> None:
    code = "from scoresde.cli.streams import *; outlive_readers(); print(1); exit(open('a', 'w').fileno())"
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" <&- >&- 2>&-'], timeout=60)
    assert done.returncode > 2
    assert Path("a").read_text() == ""
