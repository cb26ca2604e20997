"""Loggers of tracking services, by stand-ins for the packages: what each is told, and how a run is gone on with."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.tracking
import numpy as np
import pytest
from PIL import Image

from scoresde.training import AimLogger, ClearMLLogger, CometLogger, MLflowLogger, TrackioLogger
from scoresde.training.loggers import LocalLogger
from scoresde.training.trackers import TrackerLogger, flat

CONFIG = {"seed": 0, "network": {"width": 8, "multipliers": [1, 2], "none": None}, "extra": {}}
FLAT = {"seed": 0, "network.width": 8, "network.multipliers": "[1, 2]", "network.none": None, "extra": "{}"}


class Told:
    """Stands for a package or for a part of one: keeps its calls by dotted names, and answers with itself."""

    def __init__(self, calls: list[Any], called: str = "", **known: Any) -> None:
        self.__dict__.update(known)
        self._calls, self._called = calls, called

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Told(self._calls, f"{self._called}.{name}".lstrip("."))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._calls.append((self._called, arguments, options))
        return self


class Tracker:
    """Stands for a tracker of accelerate."""

    def __init__(self, calls: list[Any], *arguments: Any, **options: Any) -> None:
        self.calls, self.options = calls, options
        known = options.get("run_id") or options.get("run_hash") or options.get("experiment_key")
        known = known or options.get("continue_last_task") or options.get("name") or "first"
        if known == "gone":
            raise RuntimeError("no such run\nin the service")
        calls.append(("made", arguments, options))
        names = {"name": known, "id": known, "hash": known, "info": SimpleNamespace(run_id=known, experiment_id="7")}
        self.tracker = Told(calls, "run", get_key=lambda: known, **names)

    def __getattr__(self, name: str) -> Any:
        return Told(self.calls, name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    found: list[Any] = []
    for service, tracker in (
        ("mlflow", "MLflowTracker"),
        ("trackio", "TrackioTracker"),
        ("comet_ml", "CometMLTracker"),
        ("clearml", "ClearMLTracker"),
        ("aim", "AimTracker"),
    ):
        monkeypatch.setitem(sys.modules, service, Told(found, service))  # type: ignore[arg-type]
        monkeypatch.setattr(accelerate.tracking, tracker, lambda *a, **o: Tracker(found, *a, **o))
    mlflow: Any = sys.modules["mlflow"]
    mlflow.get_tracking_uri = lambda: "sqlite:///here.db"
    mlflow.get_run = lambda known: SimpleNamespace(data=SimpleNamespace(params={}))
    comet: Any = sys.modules["comet_ml"]
    comet.get_api_key = lambda given, config: None
    clearml: Any = sys.modules["clearml"]
    clearml.Task = SimpleNamespace(is_offline=lambda: False, set_offline=lambda offline: found.append(("off", offline)))
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "key")
    monkeypatch.setattr(TrackerLogger, "check", lambda self: None)
    return found


def named(calls: list[Any], name: str) -> list[Any]:
    return [call for call in calls if call[0] == name]


ALL = [MLflowLogger, TrackioLogger, CometLogger, ClearMLLogger, AimLogger]


@pytest.mark.parametrize("kind", ALL)
def test_a_run_is_told_and_gone_on_with(kind: type[Any], calls: list[Any], tmp_path: Path) -> None:
    run = tmp_path / "ring"
    run.mkdir()
    logger, local = kind(), LocalLogger()
    for each in (logger, local):
        each.rewind(run, 0)
        each.start(run, CONFIG)
    for step in (10, 20):
        values = {"loss": 0.5, "words": "no number", "log_snr": [0.5], "loss_by_log_snr": [2.0]}
        for each in (logger, local):
            each.numbers(step, values)
    picture = run / "samples.png"
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(picture)
    calls_before = len(calls)
    logger.picture(20, "samples", picture)
    assert len(calls) > calls_before
    logger.table(20, "metrics", ["name", "value"], [["width", 1.5]])
    logger.directory(run)
    logger.finish()
    (made,) = named(calls, "made")
    comet = named(calls, "comet_ml.ExperimentConfig")
    assert "ring" in (*made[1], *made[2].values(), *(call[2]["name"] for call in comet))
    (stored,) = [call[1][0] for call in named(calls, "store_init_configuration")]
    assert stored == (CONFIG if kind in (AimLogger, ClearMLLogger) else FLAT)
    logged = [(options["step"], values) for _, (values,), options in named(calls, "log") if "loss" in values]
    assert [step for step, _ in logged] == [10, 20]
    assert all(value["loss"] == 0.5 and "words" not in value and len(value) == 2 for _, value in logged)
    assert len(named(calls, "finish")) == 1
    identity = json.loads((run / "trackers.json").read_text())[logger.name]

    # Another process resumes from step 10: what was logged is not logged again, and the run is the same.
    calls.clear()
    again = kind()
    again.rewind(run, 10)
    again.start(run, CONFIG)
    for step in (20, 30):
        again.numbers(step, {"loss": 0.25})
    (made,) = named(calls, "made")
    assert identity in made[2].values()
    assert [call[2]["step"] for call in named(calls, "log")] == [30]


@pytest.mark.parametrize("kind", ALL)
def test_a_run_that_is_gone_is_begun_anew(
    kind: type[Any], calls: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "trackers.json").write_text(json.dumps({kind.name: "gone"}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n')
    logger = kind()
    logger.rewind(tmp_path, 10)
    logger.start(tmp_path, CONFIG)
    assert caplog.messages == [
        f"{kind.title} has no run gone to go on with, a new one is begun: no such run in the service"
    ]
    logger.numbers(10, {"loss": 1.0})  # which the new one does not have
    assert len(named(calls, "log")) == 1
    assert json.loads((tmp_path / "trackers.json").read_text())[kind.name] != "gone"


@pytest.mark.parametrize("kind", ALL)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind.package, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"^logger={kind.name} needs .*pip install 'scoresde\[{kind.name}\]'$"
    ):
        kind().check()


def test_how_a_run_ended_is_told(calls: list[Any], tmp_path: Path) -> None:
    for error, status in ((KeyboardInterrupt(), "KILLED"), (ValueError("wrong"), "FAILED")):
        logger = MLflowLogger()
        logger.start(tmp_path, CONFIG)
        calls.clear()
        logger.failed(error)
        assert [call[1] for call in named(calls, "mlflow.end_run")] == [(status,)]


def test_parameters_that_changed_become_tags(calls: list[Any], tmp_path: Path) -> None:
    mlflow: Any = sys.modules["mlflow"]
    mlflow.get_run = lambda known: SimpleNamespace(data=SimpleNamespace(params={"seed": "0", "network.width": "16"}))
    MLflowLogger().start(tmp_path, CONFIG)
    assert [call[1] for call in named(calls, "mlflow.set_tags")] == [({"network.width": 8},)]
    (stored,) = [call[1][0] for call in named(calls, "store_init_configuration")]
    assert stored == {key: value for key, value in FLAT.items() if key not in ("seed", "network.width")}


def test_services_without_a_key_are_offline(calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLEARML_API_ACCESS_KEY")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "none.conf"))
    for logger in (CometLogger(), ClearMLLogger()):
        logger.start(tmp_path, CONFIG)
    assert [call[2]["online"] for call in named(calls, "made") if "online" in call[2]] == [False]
    assert ("off", True) in calls


def test_clearml_gets_finite_numbers_at_their_own_steps(calls: list[Any], tmp_path: Path) -> None:
    logger = ClearMLLogger()
    logger.start(tmp_path, CONFIG)
    # Its own default would count the steps of a task that goes on from the last one.
    assert [call[1] for call in named(calls, "run.set_initial_iteration")] == [(0,)]
    logger.numbers(10, {"loss": math.nan, "grad_norm": math.inf, "lr": 0.5, "skipped": 3})
    assert [call[1:] for call in named(calls, "log")] == [(({"lr": 0.5, "skipped": 3},), {"step": 10})]


@pytest.mark.slow  # a fresh process
def test_a_tracker_starts_where_nothing_is_trained(tmp_path: Path) -> None:
    program = """
import sys, types
from pathlib import Path
from accelerate.logging import get_logger
import accelerate.tracking
class Tracker(accelerate.tracking.GeneralTracker):
    name, requires_logging_directory, main_process_only = "trackio", False, False
    tracker = types.SimpleNamespace(name="run")
    def __init__(self, *arguments, **options):
        pass
    def start(self):
        get_logger("accelerate.tracking").warning("started")
accelerate.tracking.TrackioTracker = Tracker
from scoresde.training import TrackioLogger
TrackioLogger.check = lambda self: None
TrackioLogger().start(Path(sys.argv[1]), {})
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"trackio": "run"}


def test_a_configuration_is_flat() -> None:
    assert flat(CONFIG) == FLAT
