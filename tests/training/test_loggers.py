import json
import logging
import math
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from scoresde.cli.command_line import CommandLine
from scoresde.cli.overrides import check_overrides
from scoresde.training.loggers import Guarded, LocalLogger, TensorBoardLogger, WandbLogger, answers


def picture(folder: Path) -> Path:
    path = folder / "picture.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    return path


# -- metrics.jsonl --------------------------------------------------------------------------------------


def strict(line: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(line, parse_constant=refuse)


def test_lines_are_json_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    logger = LocalLogger()
    logger.start(tmp_path, {})
    logger.numbers(5, {"loss": 0.25, "event": "log", "curve": [1.0, math.nan, (math.inf, 2)], "n": 3})
    logger.numbers(10, {"loss": math.nan, "norm": -math.inf, "none": None, "flag": True})
    logger.finish()
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert strict(first) == {"step": 5, "loss": 0.25, "event": "log", "curve": [1.0, None, [None, 2]], "n": 3}
    assert strict(second) == {"step": 10, "loss": None, "norm": None, "none": None, "flag": True}


def test_a_line_is_on_disk_at_once(tmp_path: Path) -> None:
    logger = LocalLogger()
    logger.start(tmp_path, {})
    logger.numbers(1, {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('{"step": 1}\n{"step": 2, "lo', '{"step": 1}\n'),
        ('{"step": 1}\n', '{"step": 1}\n'),
        ('{"st', ""),
        ("", ""),
    ],
)
def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path, before: str, kept: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(before)
    logger = LocalLogger()
    logger.start(tmp_path, {})
    logger.numbers(3, {})
    assert path.read_text() == kept + '{"step": 3}\n'


# -- Weights & Biases -----------------------------------------------------------------------------------


def test_wandb_offline_writes_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="tests")
    run_dir = tmp_path / "moons-1"
    run_dir.mkdir()
    logger.start(run_dir, {"sde": {"beta_min": 0.1}})
    logger.numbers(1, {"loss": 0.5, "curve": [1.0, 2.0], "event": "x"})
    logger.picture(1, "samples", picture(tmp_path))
    logger.table(1, "quality", ["metric", "value"], [["precision", 0.5], ["recall", 0.25]])
    (run_dir / "summary.json").write_text("{}")
    logger.directory(run_dir)
    logger.finish()
    runs = list((run_dir / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert list(runs[0].glob("*.wandb"))
    assert len(list(runs[0].glob("files/media/table/quality*"))) == 1
    assert len(list(runs[0].glob("files/media/images/samples*"))) == 1
    # Neither pictures, tables nor the artifact were refused.
    assert [r for r in caplog.records if r.name.startswith("scoresde") and r.levelno > logging.INFO] == []


class FakeWandb:
    """wandb as far as the logger uses it, failing where it is told to."""

    Image = staticmethod(str)
    Settings = staticmethod(lambda **options: SimpleNamespace(base_url="https://wandb.invalid", **options))

    def __init__(self, failing: tuple[str, ...] = (), api_key: str | None = None) -> None:
        self.failing, self.api_key = failing, api_key
        self.arguments: dict[str, Any] = {}
        self.torn_down = False
        self.logged: list[Any] = []

    def init(self, **arguments: Any) -> "FakeWandb":
        self.arguments = arguments
        self._fail("init")
        self._fail(f"init {arguments['mode']}")
        return self

    def login(self, prompt: bool) -> bool:
        assert not prompt
        return self.api_key is not None

    def teardown(self) -> None:
        self.torn_down = True

    def log(self, values: Any, step: int) -> None:
        self._fail("log")
        self.logged.append((step, values))

    def Table(self, columns: list[str], data: list[list[Any]]) -> tuple[Any, Any]:  # noqa: N802
        return columns, data

    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            self.name = name
            self.files: list[Any] = []

        def add_file(self, path: str, name: str) -> None:
            self.files.append(name)  # type: ignore[attr-defined]

    def log_artifact(self, artifact: Any) -> None:
        self._fail("log_artifact")
        self.logged.append(artifact)

    def finish(self) -> None:
        self._fail("finish")

    def _fail(self, what: str) -> None:
        if what in self.failing:
            raise RuntimeError(f"the service is down at {what}")


def with_fake(monkeypatch: pytest.MonkeyPatch, fake: FakeWandb, answers: bool = True, **arguments: Any) -> WandbLogger:
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setattr("scoresde.training.loggers.answers", lambda address: answers)
    return WandbLogger(**arguments)


@pytest.mark.parametrize("failing", [("init",), ("log",), ("finish",), ("log", "finish"), ("log_artifact",)])
def test_trouble_with_wandb_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: tuple[str, ...]
) -> None:
    logger = Guarded(with_fake(monkeypatch, FakeWandb(failing)))
    logger.start(tmp_path, {})
    logger.numbers(1, {"loss": 0.5})
    logger.numbers(2, {"loss": 0.5})
    logger.picture(1, "samples", picture(tmp_path))
    logger.table(1, "quality", ["metric"], [["precision"]])
    logger.directory(tmp_path)
    logger.finish()
    # Each trouble is said once, not at each step.
    said = [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]
    assert [message.partition("down at ")[2] for message in said] == list(failing)


def test_wandb_gets_tables_and_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("config.yaml", "samples/samples.png", "checkpoints/step-1.pt", "wandb/run/x.wandb"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    fake = FakeWandb()
    logger = with_fake(monkeypatch, fake)
    logger.start(tmp_path, {})
    logger.table(3, "quality", ["metric", "value"], [("precision", 0.5)])
    logger.directory(tmp_path)
    (step, table), artifact = fake.logged
    assert (step, table) == (3, {"quality": (["metric", "value"], [["precision", 0.5]])})
    assert artifact.files == ["config.yaml", "samples/samples.png"]


def test_under_an_agent_the_run_is_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    fake = FakeWandb()
    with_fake(monkeypatch, fake, project="p", group="g").start(tmp_path, {"a": 1})
    assert not {"id", "name", "project", "group", "resume"} & set(fake.arguments)
    assert fake.arguments["config"] == {"a": 1}


def test_the_example_of_a_wandb_sweep_is_a_command_of_this_package() -> None:
    example = yaml.safe_load((Path(__file__).parents[2] / "examples" / "wandb_sweep.yaml").read_text())
    first, command, *rest = example["command"]
    assert (first, example["program"], command, rest[-1]) == ("${program}", "scoresde", "train", "${args_no_hyphens}")
    values = {key: p["values"][0] if "values" in p else p["min"] for key, p in example["parameters"].items()}
    check_overrides(CommandLine.of("train", [*rest[:-1], *(f"{key}={value}" for key, value in values.items())]))


def test_wandb_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    logger = with_fake(monkeypatch, fake, project="p", group="g")
    logger.start(tmp_path / "name", {"a": 1})
    logger.numbers(7, {"loss": 0.5, "curve": [1.0], "event": "x", "n": 2})
    logger.numbers(8, {"log_snr": [-1.25, 3.0], "loss_by_log_snr": [0.5, 0.25]})
    assert fake.logged == [
        (7, {"loss": 0.5, "n": 2}),
        (8, {"loss_by_log_snr/-1.25": 0.5, "loss_by_log_snr/+3.00": 0.25}),
    ]
    expected = {"project": "p", "group": "g", "name": "name", "id": None, "config": {"a": 1}}
    assert expected.items() <= fake.arguments.items()


@pytest.mark.parametrize(
    ("mode", "variable", "key", "expected"),
    [
        (None, None, None, "offline"),  # nobody is logged in: never wait for the network
        (None, None, "secret", "online"),
        (None, "offline", "secret", "offline"),
        (None, "online", None, "online"),
        (None, "disabled", "secret", "disabled"),
        ("offline", "online", "secret", "offline"),
        ("disabled", None, None, "disabled"),
        ("online", "offline", None, "online"),
    ],
)
def test_wandb_mode(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    variable: str | None,
    key: str | None,
    expected: str,
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    fake = FakeWandb(api_key=key)
    with_fake(monkeypatch, fake, mode=mode).start(tmp_path, {})
    assert fake.arguments["mode"] == expected
    assert ("resume" in fake.arguments) == (expected == "online")


@pytest.mark.parametrize(
    ("fake", "answers", "why"),
    [
        (FakeWandb(), True, "nobody is logged in"),
        (FakeWandb(api_key="secret"), False, "https://wandb.invalid does not answer"),
        (FakeWandb(("init online",), "refused"), True, "the service is down at init online"),
    ],
)
def test_without_the_service_wandb_logs_offline_and_says_how_to_upload(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fake: FakeWandb,
    answers: bool,
    why: str,
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = with_fake(monkeypatch, fake, answers)
    with caplog.at_level(logging.INFO, "scoresde"):
        logger.start(tmp_path, {})
    logger.numbers(3, {"loss": 0.5})
    assert fake.arguments["mode"] == "offline"
    assert fake.logged == [(3, {"loss": 0.5})]
    assert len(caplog.messages) == 1
    assert f"logged offline, as {why}" in caplog.text
    assert "to upload it: wandb sync " in caplog.text
    # Its service would refuse the id of the run that did not start.
    assert fake.torn_down == bool(fake.failing)


def test_a_resumed_run_is_the_same_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    for folder in ("offline-run-20260102_030405-newer-id", "run-20260101_030405-older"):
        (tmp_path / "wandb" / folder).mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run").symlink_to("run-20260101_030405-older")
    with_fake(monkeypatch, fake).start(tmp_path, {})
    assert fake.arguments["id"] == "newer-id"
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    with_fake(monkeypatch, fake).start(tmp_path, {})
    assert "id" not in fake.arguments


def test_names_are_cleaned_as_wandb_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb_settings = pytest.importorskip("wandb").Settings
    fake = FakeWandb()
    tags = ["a:b#c", " ", "x" * 80]
    given = {"entity": "team", "job_type": "sweep", "notes": "why", "group": "a/b:c"}
    with_fake(monkeypatch, fake, project="a:b#c/d%e?" + "f" * 200, tags=tags, **given).start(tmp_path, {})
    sent = fake.arguments
    assert sent["project"].startswith("a_b_c_d_e_fff")
    assert sent["tags"] == ["a:b#c", "x" * 64]
    assert given.items() <= sent.items()
    wandb_settings(project=sent["project"], run_tags=sent["tags"], entity=sent["entity"], run_group=sent["group"])


def test_the_project_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    with_fake(monkeypatch, fake).start(tmp_path, {})
    assert fake.arguments["project"] == "scoresde"
    monkeypatch.setenv("WANDB_PROJECT", "other")
    with_fake(monkeypatch, fake).start(tmp_path, {})
    assert fake.arguments["project"] == "other"
    with_fake(monkeypatch, fake, project="mine").start(tmp_path, {})
    assert fake.arguments["project"] == "mine"


def test_an_address_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not answers(f"http://127.0.0.1:{port}")
    assert not answers("no address")


def test_wandb_mode_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="mode is 'sometimes', expected online, offline, disabled or null"):
        with_fake(monkeypatch, FakeWandb(), mode="sometimes")


# -- TensorBoard ----------------------------------------------------------------------------------------


def test_tensorboard_has_the_scalars_and_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger()
    logger.start(tmp_path, {})
    for step in (1, 2, 3):
        logger.numbers(step, {"loss": 1 / step, "n": step, "curve": [1.0], "event": "x"})
    logger.picture(3, "samples", picture(tmp_path))
    logger.table(3, "quality", ["metric", "value"], [["precision", 0.123456], ["none", None]])
    logger.finish()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "n"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(s, pytest.approx(1 / s)) for s in (1, 2, 3)]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (3, 4, 4)
    (table,) = events.Tensors("quality/text_summary")
    expected = "| metric | value |\n| --- | --- |\n| precision | 0.1235 |\n| none |  |"
    assert table.tensor_proto.string_val[0].decode() == expected


@pytest.mark.slow
def test_tensorboard_has_each_step_once_after_a_resumption(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def shown() -> list[tuple[int, float]]:
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        return [(e.step, e.value) for e in events.Scalars("loss")]

    # Killed after step 40, twice: the checkpoints are of steps 20 and 30. Nothing is closed, as in a killed process.
    for first, last, value in ((0, 40, 1.0), (20, 40, 2.0), (30, 60, 3.0)):
        logger = TensorBoardLogger()
        logger.rewind(tmp_path, first)
        logger.start(tmp_path, {})
        for step in range(first + 10, last + 1, 10):
            logger.numbers(step, {"loss": value})
        assert shown()[-1] == (last, value)  # on disk already
        time.sleep(1.1)  # files are read in the order of their names, which have the second
    assert shown() == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 3.0), (50, 3.0), (60, 3.0)]


def test_finish_without_start() -> None:
    pytest.importorskip("tensorboard")
    TensorBoardLogger().finish()


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (WandbLogger, "wandb", "wandb"),
        (TensorBoardLogger, "torch.utils.tensorboard", "tensorboard"),
    ],
)
def test_a_missing_extra_is_named_and_the_run_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Any,
    module: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    logger = Guarded(make())
    logger.start(tmp_path, {})
    logger.numbers(1, {"loss": 0.5})
    logger.finish()
    assert caplog.messages == [
        f"{make.__name__} did not start, the run continues without it: {extra} is not installed: "
        f"pip install 'scoresde[{extra}]'"
    ]
