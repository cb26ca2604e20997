"""The tracking services that runs can be logged to: MLflow, trackio, Comet, ClearML and Aim."""

import csv
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoresde.training.loggers import StopTraining, answers, markdown, run_files
from scoresde.training.trackers import TrackerLogger, flat

__all__ = ["AimLogger", "ClearMLLogger", "CometLogger", "MLflowLogger", "TrackioLogger"]


class MLflowLogger(TrackerLogger):
    """MLflow: curves, pictures, tables, the configuration as parameters, and the run directory as artifacts.

    When training is resumed, so is the run. One that an error ends is marked as failed, and one that is interrupted as
    killed. Parameters of MLflow do not change: those that a resumed run has with other values become tags.

    Args:
        experiment: Name of the experiment; `MLFLOW_EXPERIMENT_NAME`, or scoresde, if not given.
        tracking_uri: A server's address, or a database as `sqlite:///FILE`; `MLFLOW_TRACKING_URI`, or what MLflow takes
            by default, if not given. Folders are refused by MLflow from 3.17 on, or earlier.
        group: Name of a group of runs, kept as the tag `group`.
        tags: Values by their names, by which runs are found.
        notes: Text about the run.
    """

    name, title, package = "mlflow", "MLflow", "mlflow"

    def __init__(
        self,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        group: str | None = None,
        tags: Mapping[str, Any] | None = None,
        notes: str | None = None,
    ) -> None:
        super().__init__(group)
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.tags = {str(key): str(value) for key, value in (tags or {}).items()}
        self.notes = notes

    def open(self, run_dir: Path, known: str | None) -> Any:
        import mlflow
        from accelerate.tracking import MLflowTracker

        if self.tracking_uri is not None:
            mlflow.set_tracking_uri(self.tracking_uri)
        address = str(mlflow.get_tracking_uri())
        # It asks again for minutes otherwise.
        if address.startswith("http") and not answers(address):
            raise ConnectionError(f"{address} does not answer")
        tags = {**self.tags, **({} if self.group is None else {"group": self.group})}
        options: dict[str, Any] = {"run_id": known, "run_name": run_dir.name, "tags": tags, "description": self.notes}
        tracker = MLflowTracker(self.experiment or "scoresde", **options)
        if self.experiment is not None:
            tracker.experiment_name = self.experiment  # what is given here is more than the environment
        tracker.start()
        return tracker

    def identity(self) -> str | None:
        return str(self._tracker.tracker.info.run_id)

    def where(self) -> str:
        import mlflow

        run = self._tracker.tracker.info
        return f"run {run.run_id} of experiment {run.experiment_id} in {mlflow.get_tracking_uri()}"

    def parameters(self, config: dict[str, Any]) -> dict[str, Any]:
        import mlflow

        given = flat(config)
        known = mlflow.get_run(self.identity()).data.params
        changed = {key: value for key, value in given.items() if key in known and known[key] != str(value)}
        if changed:
            mlflow.set_tags(changed)
        return {key: value for key, value in given.items() if key not in known}

    def metric(self, name: str) -> str:
        return re.sub(r"[^\w\-. :/]", "_", name.replace("/+", "/"))

    def picture(self, step: int, name: str, path: Path) -> None:
        import mlflow
        from PIL import Image

        with Image.open(path, formats=["PNG"]) as image:
            mlflow.log_image(image.convert("RGB"), key=name, step=step)

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import mlflow

        mlflow.log_text(_csv(head, rows), f"tables/{name}.csv")

    def directory(self, run_dir: Path) -> None:
        import mlflow

        for path, name in run_files(run_dir):
            mlflow.log_artifact(str(path), f"run/{name}".rpartition("/")[0])

    def failed(self, error: BaseException) -> None:
        import mlflow

        mlflow.end_run("KILLED" if _is_stop(error) else "FAILED")


class TrackioLogger(TrackerLogger):
    """Trackio: curves, pictures and tables in files on this machine, or in a Space of Hugging Face.

    When training is resumed, so is the run, which is known by its name in the project.

    Args:
        project: Name of the project; scoresde if not given.
        space_id: A Space, as USER/NAME, that the run is logged to; `TRACKIO_SPACE_ID`, or this machine, if not given.
        group: Name of a group of runs.
    """

    name, title, package = "trackio", "trackio", "trackio"

    def __init__(self, project: str | None = None, space_id: str | None = None, group: str | None = None) -> None:
        super().__init__(group)
        self.project = project or "scoresde"
        self.space_id = space_id

    def open(self, run_dir: Path, known: str | None) -> Any:
        from accelerate.tracking import TrackioTracker

        given = {"space_id": self.space_id, "group": self.group}
        options = {key: value for key, value in given.items() if value is not None}
        # Without `embed` it would show a page in a notebook.
        tracker = TrackioTracker(
            self.project,
            name=known or run_dir.name,
            resume="never" if known is None else "must",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
            **options,
        )
        tracker.start()
        return tracker

    def identity(self) -> str | None:
        return str(self._tracker.tracker.name)

    def picture(self, step: int, name: str, path: Path) -> None:
        import trackio

        self._tracker.log({name: trackio.Image(path)}, step=step)

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import trackio

        self._tracker.log({name: trackio.Table(columns=list(head), data=[list(row) for row in rows])}, step=step)


class CometLogger(TrackerLogger):
    """Comet: curves, pictures, tables, and the run directory as assets.

    Without an API key the run is logged offline into the run directory, and `comet upload` uploads it later. When
    training is resumed, so is the experiment.

    Args:
        project: Name of the project; `COMET_PROJECT_NAME`, or scoresde, if not given.
        workspace: Workspace that the project belongs to; the key's own if not given.
        online: Whether it logs online; if there is an API key, if not given.
        group: Name of a group of runs, kept as a tag.
        tags: Words by which runs are found.
    """

    name, title, package = "comet", "Comet", "comet_ml"

    def __init__(
        self,
        project: str | None = None,
        workspace: str | None = None,
        online: bool | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        super().__init__(group)
        self.project = project or os.environ.get("COMET_PROJECT_NAME") or "scoresde"
        self.workspace = workspace
        self.online = online
        self.tags = [str(tag) for tag in tags]

    def open(self, run_dir: Path, known: str | None) -> Any:
        import comet_ml
        from accelerate.tracking import CometMLTracker

        online = _has_key(comet_ml) if self.online is None else self.online
        config = comet_ml.ExperimentConfig(
            name=run_dir.name,
            tags=[*self.tags, *([] if self.group is None else [self.group])] or None,
            offline_directory=str(run_dir / "comet"),
            # The numbers of the log are given here; what comet finds by itself would come twice.
            parse_args=False,
            auto_metric_logging=False,
            auto_param_logging=False,
            auto_output_logging=False,
            log_code=False,
            display_summary_level=0,
        )
        options = {"workspace": self.workspace, "experiment_key": known}
        tracker = CometMLTracker(
            self.project,
            online=online,
            mode="create" if known is None else "get_or_create",
            experiment_config=config,
            **{key: value for key, value in options.items() if value is not None},
        )
        tracker.start()
        return tracker

    def identity(self) -> str | None:
        return str(self._tracker.tracker.get_key())

    def picture(self, step: int, name: str, path: Path) -> None:
        self._tracker.tracker.log_image(str(path), name=name, step=step)

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._tracker.tracker.log_table(f"{name}.csv", tabular_data=[list(row) for row in rows], headers=list(head))

    def directory(self, run_dir: Path) -> None:
        for path, name in run_files(run_dir):
            self._tracker.tracker.log_asset(str(path), file_name=name)


def _has_key(comet_ml: Any) -> bool:
    return bool(comet_ml.get_api_key(None, comet_ml.get_config()))


class ClearMLLogger(TrackerLogger):
    """ClearML: curves, pictures, tables, the configuration as hyperparameters, and the run directory as artifacts.

    Without credentials the task is logged offline, into ClearML's own folder, and a line says how to upload it. When
    training is resumed, so is the task; offline, a task of its own goes on.

    Args:
        project: Name of the project; `CLEARML_PROJECT`, or scoresde, if not given.
        offline: Whether it logs offline; if there are no credentials, if not given.
        group: Name of a group of runs, kept as a tag.
        tags: Words by which tasks are found.
    """

    name, title, package = "clearml", "ClearML", "clearml"

    def __init__(
        self,
        project: str | None = None,
        offline: bool | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        super().__init__(group)
        self.project = project or os.environ.get("CLEARML_PROJECT") or "scoresde"
        self.offline = offline
        self.tags = [str(tag) for tag in tags]

    def open(self, run_dir: Path, known: str | None) -> Any:
        from accelerate.tracking import ClearMLTracker
        from clearml import Task

        offline = Task.is_offline() or not _has_credentials() if self.offline is None else self.offline
        Task.set_offline(offline)
        tracker = ClearMLTracker(
            project_name=self.project,
            task_name=run_dir.name,
            tags=[*self.tags, *([] if self.group is None else [self.group])],
            reuse_last_task_id=False,
            # An offline task cannot be gone on with: its archive is closed.
            continue_last_task=known if known is not None and not offline else False,
            # What it would find by itself are the same numbers, and every checkpoint.
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        tracker.start()
        # Of a task that goes on, it would count steps from the last one.
        tracker.tracker.set_initial_iteration(0)
        return tracker

    def identity(self) -> str | None:
        from clearml import Task

        return None if Task.is_offline() else str(self._tracker.tracker.id)

    def parameters(self, config: dict[str, Any]) -> dict[str, Any]:
        self._tracker.tracker.connect(flat(config), name="scoresde")
        return config  # as a configuration object besides, which keeps its tree

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        # It shows 0 in place of what is not finite (clearml 2.1).
        super().numbers(step, {name: v for name, v in values.items() if not isinstance(v, float) or math.isfinite(v)})

    def picture(self, step: int, name: str, path: Path) -> None:
        self._tracker.tracker.get_logger().report_image(name, name, iteration=step, local_path=str(path))

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._tracker.log_table(name, columns=list(head), data=[list(row) for row in rows], step=step)

    def directory(self, run_dir: Path) -> None:
        for path, name in run_files(run_dir):
            self._tracker.tracker.upload_artifact(name, artifact_object=str(path))

    def failed(self, error: BaseException) -> None:
        from clearml import Task

        if not Task.is_offline() and not _is_stop(error):
            self._tracker.tracker.mark_failed(status_message=f"{type(error).__name__}: {error}"[:200])


def _has_credentials() -> bool:
    if os.environ.get("CLEARML_API_ACCESS_KEY"):
        return True
    return Path(os.environ.get("CLEARML_CONFIG_FILE") or "~/clearml.conf").expanduser().is_file()


class AimLogger(TrackerLogger):
    """Aim: curves, pictures, tables and the configuration in a repository on this machine or of a server.

    When training is resumed, so is the run.

    Args:
        repo: The repository: a folder, or the address of a server as `aim://HOST:PORT`; the folder of the runs if not
            given.
        experiment: Name of the experiment; scoresde if not given.
        group: Name of a group of runs, kept as a tag.
        log_system: Whether Aim follows the load of the machine and the text on the terminal, too.
    """

    name, title, package = "aim", "Aim", "aim"

    def __init__(
        self,
        repo: str | None = None,
        experiment: str | None = None,
        group: str | None = None,
        log_system: bool = False,
    ) -> None:
        super().__init__(group)
        self.repo = repo
        self.experiment = experiment or "scoresde"
        self.log_system = log_system

    def open(self, run_dir: Path, known: str | None) -> Any:
        from accelerate.tracking import AimTracker

        system: dict[str, Any] = {} if self.log_system else {"system_tracking_interval": None}
        tracker = AimTracker(
            run_dir.name,
            self.repo or str(run_dir.parent),
            experiment=self.experiment,
            capture_terminal_logs=self.log_system,
            **system,
            **({} if known is None else {"run_hash": known}),
        )
        tracker.start()
        if self.group is not None:
            tracker.tracker.add_tag(self.group)
        return tracker

    def identity(self) -> str | None:
        return str(self._tracker.tracker.hash)

    def parameters(self, config: dict[str, Any]) -> dict[str, Any]:
        return config  # it shows trees

    def picture(self, step: int, name: str, path: Path) -> None:
        from PIL import Image

        with Image.open(path, formats=["PNG"]) as image:
            self._tracker.log_images({name: image.convert("RGB")}, step=step)

    def table(self, step: int, name: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import aim

        self._tracker.tracker.track(aim.Text(markdown(head, rows)), name=name, step=step)


def _is_stop(error: BaseException) -> bool:
    """Whether somebody asked for the end, which is no failure."""
    from scoresde.training.loop import Interrupted

    return isinstance(error, KeyboardInterrupt | Interrupted | StopTraining)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([head, *rows])
    return file.getvalue()
