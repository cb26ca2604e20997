"""Progress: bars where a line can be rewritten, lines elsewhere."""

import io
import logging
import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from scoresde import progress
from scoresde.progress import Progress, duration, log_beside_bars, note, say


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("scoresde.progress.time.perf_counter", made)
    return made


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Makes standard error a terminal of some rows and columns; the returned function gives what was written to it."""
    import fcntl
    import struct
    import termios

    main, other = pty.openpty()
    stream = os.fdopen(other, "w", encoding="utf-8")

    def size(rows: int, columns: int) -> None:
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        monkeypatch.setattr(sys, "stderr", stream)

    def written() -> str:
        stream.close()
        text = b""
        with suppress(OSError):  # the end of a terminal
            while more := os.read(main, 65536):
                text += more
        return text.decode()

    monkeypatch.setenv("TERM", "xterm")
    yield lambda *shape: size(*shape) if shape else written()  # type: ignore[func-returns-value, misc]
    stream.close()
    os.close(main)


def run(clock: Clock, steps: int, each: float, **options: Any) -> None:
    with Progress(steps, "sampling", "step", **options) as bar:
        for _ in range(steps - options.get("done", 0)):
            clock.now += each
            bar.update()


def test_in_a_file_there_are_lines_at_an_interval(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run(clock, 100, 1.0)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: step 10/100, 0:01:30 left",
        "sampling: step 40/100, 0:01:00 left",
        "sampling: step 70/100, 0:00:30 left",
        "sampling: step 100/100, done in 0:01:40",
    ]


def test_what_is_soon_done_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run(clock, 9, 1.0)
    assert capsys.readouterr() == ("", "")


def test_what_was_done_before_is_not_in_the_time_that_is_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run(clock, 100, 2.0, done=90)
    assert capsys.readouterr().err.splitlines()[0] == "sampling: step 95/100, 0:00:10 left"


def test_lines_of_their_own_put_off_those_of_the_interval(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(40, "training", "step") as bar:
        for step in range(1, 41):
            clock.now += 1.0
            bar.update()
            if step % 8 == 0:
                bar.line(f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: step 8/40, loss 8, 0:00:32 left"
    assert [line.split(", ")[1] for line in lines] == ["loss 8", "loss 16", "loss 24", "loss 32", "loss 40"]


def test_a_note_stands_in_lines_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, "comparing", "cell") as bar:
        bar.note("heun, 5 steps")
        clock.now += 20
        bar.update()
    assert capsys.readouterr().err.splitlines()[0] == "comparing: cell 1/3, heun, 5 steps, 0:00:40 left"


def test_nothing_is_shown_that_is_not_to_be(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, "sampling", "step", shown=False) as bar:
        clock.now += 100
        bar.update()
        bar.line("loss 1")
    assert capsys.readouterr() == ("", "")


def test_after_an_error_there_is_no_last_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(3, "sampling", "step")
    clock.now += 20
    bar.update()
    bar.__exit__(KeyError)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("rows", "columns", "widest"), [(24, 80, 80), (24, 20, 20), (0, 60, 60), (0, 0, 80)])
def test_a_terminal_of_any_size_has_a_bar(terminal: Any, rows: int, columns: int, widest: int) -> None:
    terminal(rows, columns)
    with Progress(5, "sampling", "step") as bar:
        bar.update(5)
    shown = [text for text in re.split(r"[\r\n]+", terminal()) if text]
    assert "100%" in shown[-1]
    assert max(map(len, shown)) <= widest


@pytest.mark.parametrize("where", ["dumb", "no bars", "file", "closed", "none"])
def test_where_no_line_can_be_rewritten_there_is_none(
    where: str, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(24, 80)
    if where == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif where == "no bars":
        progress.show(bars=False)
    else:
        stream = None if where == "none" else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        if stream is not None and where == "closed":
            stream.close()
    with Progress(5, "sampling", "step") as bar:
        bar.update(5)
        bar.line("loss 1")
    if where in ("dumb", "no bars"):
        assert terminal() == "sampling: step 5/5, loss 1, done in 0:00:00\r\n"
    elif where == "file":
        assert sys.stderr.getvalue() == "sampling: step 5/5, loss 1, done in 0:00:00\n"  # type: ignore[attr-defined]


def test_a_job_logs_lines_beside_a_bar(terminal: Any, caplog: pytest.LogCaptureFixture) -> None:
    terminal(24, 80)
    caplog.set_level(logging.INFO, "scoresde")
    log_beside_bars(caplog.handler)
    try:
        with Progress(5, "training", "step") as bar:
            bar.update(5)
            bar.line("loss 1")
    finally:
        log_beside_bars(caplog.handler, add=False)
    assert caplog.messages == ["training: step 5/5, loss 1, done in 0:00:00"]
    assert "loss 1" not in terminal()


def test_lines_go_to_the_log_where_it_takes_them(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.show(bars=False, prefix="job 3: ")
    with caplog.at_level(logging.INFO, "scoresde"):
        say("100% of it")
    say("to standard error")
    assert caplog.messages == ["job 3: 100% of it"]
    assert capsys.readouterr().err == "job 3: to standard error\n"


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 61, 3600)] == ["0:00:00", "0:01:01", "1:00:00"]


def test_what_is_printed_elsewhere_is_kept_in_the_log_of_a_job(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "scoresde")
    log_beside_bars(caplog.handler)
    try:
        note("likelihood  test: 3.1 bits/dim")
    finally:
        log_beside_bars(caplog.handler, add=False)
    note("after it")
    assert caplog.messages == ["likelihood  test: 3.1 bits/dim"]
    assert capsys.readouterr() == ("", "")
