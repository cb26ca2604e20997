"""What an interruption or a bad disk leaves of a run's text files: named, set aside, and gone on without."""

import json
import logging
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from scoresde.cli.jobs import read_jobs
from scoresde.cli.sweep_end import conclude
from scoresde.report.reading import read_run
from scoresde.runs.directory import Run
from scoresde.runs.log import read_log
from scoresde.runs.pictures.likelihoods import column
from scoresde.storage.bounded import CheckpointError, DamagedFile, read_file, read_json
from scoresde.storage.files import set_aside
from scoresde.training.loggers import LocalLogger


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    return Run(tmp_path, OmegaConf.create({"a": 1}))


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(FileNotFoundError):
        read_json(path, dict)
    path.write_text('{"a": [1]}')
    assert read_json(path, dict) == {"a": [1]}
    for content in ("", '{"a": [1', "[1]", "null", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(DamagedFile) as error:
            read_json(path, dict)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_setting_aside_replaces_nothing(tmp_path: Path) -> None:
    for content in ("one", "two", "three"):
        (tmp_path / "log").write_text(content)
        set_aside(tmp_path / "log")
    texts = [(tmp_path / f"log.damaged{end}").read_text() for end in ("", "-2", "-3")]
    assert texts == ["one", "two", "three"]


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is a named pipe, expected a file"):
        read_file(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is a directory, expected a file"):
        read_file(tmp_path)


@pytest.mark.parametrize("content", ["", '{"finished": tr', "[]", "\x00\x00"])
def test_a_damaged_summary_is_set_aside(run: Run, content: str, caplog: pytest.LogCaptureFixture) -> None:
    path = run.directory / "summary.json"
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert run.summary() == {}
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "set aside as summary.json.damaged" in record.getMessage()
    assert (run.directory / "summary.json.damaged").read_text() == content
    assert run.add_to_summary(name="x") == run.summary() == {"name": "x"}


def test_a_damaged_summary_is_set_aside_by_what_adds_to_it(run: Run) -> None:
    (run.directory / "summary.json").write_text("{")
    assert run.add_to_summary(name="x") == {"name": "x"}
    assert (run.directory / "summary.json.damaged").read_text() == "{"


def test_a_damaged_list_of_pictures_is_set_aside(run: Run) -> None:
    path = run.directory / "pictures.json"
    path.write_text('[{"file": "a.png"')
    run.add_picture("b.png", "B", "")
    assert [p["file"] for p in run.pictures()] == ["b.png"]
    assert (run.directory / "pictures.json.damaged").is_file()
    path.write_text('[{"file": "a.png", "title": "", "caption": ""}, 3, {"title": "x"}]')
    assert [p["file"] for p in run.pictures()] == ["a.png"]


LOG = ['{"step": 10, "loss": 1.25}\n', '{"step": 20, "loss": 0.5}\n', '{"step": 30, "loss": 0.125}\n']


def test_a_log_cut_anywhere_has_its_complete_lines(run: Run) -> None:
    path, text = run.directory / "metrics.jsonl", "".join(LOG)
    for size in range(len(text) + 1):
        path.write_text(text[:size])
        steps = [10, 20, 30][: text[:size].count("\n")]
        assert [line["step"] for line in read_log(run)] == steps
        page = read_run(run.directory)
        assert [line["step"] for line in page.log] == steps
        assert not any("metrics" in note for note in page.notes)
        logger = LocalLogger()
        logger.rewind(run.directory, 20)
        logger.start(run.directory, {})
        logger.numbers(40, {})
        kept = [step for step in steps if step <= 20]
        assert [line["step"] for line in read_log(run)] == [*kept, 40]
    assert not (run.directory / "metrics.jsonl.damaged").exists()


def test_damaged_lines_of_a_log_are_set_aside(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    path = run.directory / "metrics.jsonl"
    text = LOG[0] + "{#\n" + LOG[1] + "17\n" + LOG[2]
    path.write_text(text)
    assert [line["step"] for line in read_log(run)] == [10, 20, 30]
    assert any("cannot be read and were left out: 2" in note for note in read_run(run.directory).notes)
    with caplog.at_level(logging.WARNING):
        LocalLogger().rewind(run.directory, 20)
    assert f"{path} has damaged lines, 2 of them" in caplog.text
    assert path.read_text() == LOG[0] + LOG[1]
    assert (run.directory / "metrics.jsonl.damaged").read_text() == text


def test_likelihoods_cut_anywhere_have_their_complete_rows(tmp_path: Path) -> None:
    path = tmp_path / "likelihood-test.csv"
    assert column(path) == []
    text = "index,nats,stderr\n0,3.8555e-05,0.0\n1,-2.5,0.0\n"
    for size in range(len(text) + 1):
        path.write_text(text[:size])
        assert column(path) == [3.8555e-05, -2.5][: max(text[:size].count("\n") - 1, 0)]


def test_a_comparison_cut_in_a_number_has_its_complete_rows(run: Run) -> None:
    (run.directory / "comparison.csv").write_text("sampler,nfe\nheun,12\nddpm,3.8555")
    assert [row["sampler"] for row in read_run(run.directory).comparison] == ["heun"]


def test_a_report_does_not_wait_for_a_pipe(run: Run) -> None:
    for name in ("metrics.jsonl", "summary.json", "comparison.csv", "pictures.json"):
        os.mkfifo(run.directory / name)
    assert read_run(run.directory).log == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"number": 3}'])
def test_a_damaged_record_of_a_job_is_a_failed_job(tmp_path: Path, content: str) -> None:
    (tmp_path / "jobs").mkdir()
    good = {"number": 0, "overrides": ["a=1"], "status": "finished", "run": None, "runs": [], "error": None}
    good |= {"log": None, "seconds": 1.0, "value": None, "unit": "", "process": None}
    (tmp_path / "jobs" / "000.json").write_text(json.dumps(good))
    (tmp_path / "jobs" / "003.json").write_text(content)
    first, second = read_jobs(tmp_path)
    assert first == good
    assert (second["number"], second["status"]) == (3, "failed")
    assert "003.json" in second["error"]
    assert conclude(tmp_path, 0) == 1
