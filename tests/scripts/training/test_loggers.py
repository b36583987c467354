import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger
from PIL.Image import Image

from scripts.training.loggers import place_other_loggers
from tests.callbacks.test_curves import rows
from tests.conftest import Run
from tests.discovery import ROOT

WANDB, MLFLOW = (f"lightning.pytorch.loggers.{name}Logger" for name in ("Wandb", "MLFlow"))
QUICK = ("--data.batch_size=256", "--trainer.log_every_n_steps=2", "--early_stopping=null")
PICTURES = {"preview/train", "filters/stages.0", "confusion_matrix/val", "confusion_matrix/test", "worst_mistakes/test"}


class Album(Logger):
    """Keeps pictures, settings and points, as a service does."""

    name, version = "album", "1"
    pictures: ClassVar[list[tuple[str, int]]] = []
    points: ClassVar[list[tuple[str, str]]] = []
    settings: ClassVar[dict[str, Any]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.points.extend((name, str(step)) for name in metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.settings.update(params)

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        assert all(isinstance(image, Image) for image in images)
        self.pictures.append((key, step))


def points(folder: Path) -> list[tuple[str, str]]:
    """What `metrics.csv` has: figure and step of each point."""
    return sorted(
        (name, row["step"]) for row in rows(folder) for name, value in row.items() if value and name != "step"
    )


def test_any_logger_that_takes_pictures_has_what_tensorboard_has_and_the_table_is_written_beside_it(
    train: Callable[..., Run],
) -> None:
    run = train(*QUICK, "--trainer.max_epochs=1", f"--trainer.logger={__name__}.Album")
    end = run.results["steps"]
    assert sorted(Album.pictures) == sorted(
        [("filters/stages.0", 0), *((name, 0 if name.startswith("preview") else end) for name in PICTURES)]
    )
    assert Album.settings == run.checkpoint["config"]
    assert sorted(Album.points) == points(run.folder)
    assert not list(run.folder.glob("events.*"))


@pytest.mark.parametrize("logger", ["null", "false"])
def test_curves_are_where_the_end_says(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str], logger: str
) -> None:
    run = train(*QUICK, "--trainer.max_epochs=1", f"--trainer.logger={logger}")
    table = run.folder / "metrics.csv"
    assert table.exists() == (logger == "null")
    assert f"curves      {os.path.relpath(table) if table.exists() else 'none'}\n" in capsys.readouterr().out
    assert not list(run.folder.rglob("events.out.*"))


@pytest.mark.parametrize(("logger", "extra"), [(WANDB, "wandb"), (MLFLOW, "mlflow")])
def test_a_logger_that_is_not_installed_is_told_how_to_install_it(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == extra else find(name))
    said = refused("fit", f"--trainer.logger={logger}", "--runs", tmp_path / "runs")
    assert said == f"error: {logger} needs {extra}; run pip install -e '.[{extra}]'.\n"
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize(("name", "meant"), [("wandb", WANDB), ("mlflow", MLFLOW), ("WandLogger", WANDB)])
def test_an_unknown_logger_is_answered_with_the_nearest(refused: Callable[..., str], name: str, meant: str) -> None:
    assert refused("fit", "--trainer.logger", name).endswith(f"did you mean {meant}?\n")


def test_loggers_get_folder_name_and_id_where_they_are_given_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    folder = tmp_path / "digits" / "now"
    folder.mkdir(parents=True)

    def placed(path: str, **given: Any) -> dict[str, Any]:
        logger = Namespace(class_path=path, init_args=Namespace(**given))  # type: ignore[no-untyped-call]
        place_other_loggers([logger], folder, "digits")
        return dict(vars(logger.init_args))

    wandb: dict[str, Any] = {"name": None, "id": None, "save_dir": "."}
    mlflow: dict[str, Any] = {"run_name": None, "run_id": None, "tracking_uri": None, "artifact_location": None}
    mlflow["save_dir"] = "./mlruns"
    assert placed(WANDB, **wandb) == {"name": "digits/now", "id": None, "save_dir": str(folder)}
    assert placed(MLFLOW, **mlflow) == {
        "run_name": "digits/now",
        "run_id": None,
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "artifact_location": f"file://{folder}/mlflow",
        "save_dir": str(folder / "mlruns"),
    }
    (folder / "wandb_id.txt").write_text("a1")
    (folder / "mlflow_id.txt").write_text("b2")
    assert placed(WANDB, **wandb)["id"] == "a1"
    given = {
        "save_dir": "own",
        "run_name": "mine",
        "run_id": "c3",
        "tracking_uri": "http://server",
        "artifact_location": None,
    }
    assert placed(MLFLOW, **given) == given
    assert placed(MLFLOW, **mlflow)["run_id"] == "b2"


def wandb_records(run: Path) -> Iterator[Any]:
    """What offline W&B has written in all starts of a run: records in blocks, as LevelDB's log has them."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        data, at, part = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if (left := 2**15 - at % 2**15) < 7:
                at += left
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            part += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(part)
                part = b""


class WandbRun:
    """What W&B has of a run."""

    logger = WANDB

    def __init__(self, folder: Path) -> None:
        records = list(wandb_records(folder))
        runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        self.names = {run.display_name for run in runs}
        self.ids = {run.run_id for run in runs}
        updates = (each.config for each in records if each.WhichOneof("record_type") == "config")
        self.epochs = [
            json.loads(update.value_json)["max_epochs"]
            for config in updates
            for update in config.update
            if update.key == "trainer"
        ]
        self.points: list[tuple[str, str]] = []
        self.pictures: Counter[str] = Counter()
        for record in records:
            values = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for name in values:
                if name.endswith("/_type"):
                    self.pictures[name.removesuffix("/_type")] += 1
                elif name.split("/")[0] in ("train", "val", "test", "lr", "best"):
                    self.points.append((name, values["trainer/global_step"]))


class MLflowRun:
    """What MLflow has of a run."""

    logger = MLFLOW

    def __init__(self, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        self.names, self.ids = ({getattr(run.info, name) for run in runs} for name in ("run_name", "run_id"))
        assert {run.info.status for run in runs} == {"FINISHED"}
        self.epochs = [int(run.data.params["trainer/max_epochs"]) for run in runs]
        self.points = [
            (name, str(point.step))
            for run in runs
            for name in run.data.metrics
            if name != "epoch"
            for point in client.get_metric_history(run.info.run_id, name)
        ]
        files = [Path(file.path).name for run in runs for file in client.list_artifacts(run.info.run_id, "images")]
        self.pictures = Counter(file.split("+")[0].replace("~", "/") for file in files if file.endswith(".png"))
        self.models = [file.path for run in runs for file in client.list_artifacts(run.info.run_id, "best")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [WandbRun, MLflowRun], ids=["wandb", "mlflow"])
def test_a_service_has_a_run_once_however_often_it_is_resumed(
    train: Callable[..., Run],
    resume: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: type[WandbRun] | type[MLflowRun],
) -> None:
    service = "wandb" if kind is WandbRun else "mlflow"
    pytest.importorskip(service)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train(*QUICK, "--trainer.max_epochs=1", f"--trainer.logger={kind.logger}", "--trainer.logger.log_model=true")
    said = capfd.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()].count(service) == 1
    assert not said.err, "it is silent"
    checkpoints, after_one = run.folder / "checkpoints", tmp_path / "after one"
    shutil.copytree(checkpoints, after_one)
    resume(run, "--trainer.max_epochs=2")
    shutil.rmtree(checkpoints)
    shutil.copytree(after_one, checkpoints)  # as if the second epoch's had not been written
    resume(run, "--trainer.max_epochs=2", "--model.optimizer.weight_decay=0.1")

    found = kind(run.folder)
    assert found.names == {f"digits-convnet/{run.folder.name}"}
    assert found.ids == {(run.folder / f"{service}_id.txt").read_text()}
    assert max(Counter(found.points).values()) == 1
    assert {*points(run.folder)} - {("epoch", row["step"]) for row in rows(run.folder)} <= {*found.points}
    assert set(found.pictures) == PICTURES
    assert found.pictures["preview/train"] == 1
    assert (found.epochs[0], found.epochs[-1]) == ((1, 2) if kind is WandbRun else (1, 1)), "MLflow changes no setting"
    if isinstance(found, MLflowRun):
        assert "best/best.ckpt" in found.models
    assert {file.name for file in tmp_path.iterdir()} == {"after one", "runs"}, "nothing lies elsewhere"


def test_wandb_without_a_key_ends_in_one_sentence_and_leaves_no_run(tmp_path: Path, data_root: Path) -> None:
    pytest.importorskip("wandb")
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "fit", f"--trainer.logger={WANDB}"]
    command += ["--runs", str(tmp_path / "runs"), "--data.root", str(data_root)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment["HOME"] = str(tmp_path)  # where the keys are
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: WandbLogger cannot start: No API key configured")
    assert "WANDB_MODE=offline" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.filterwarnings("ignore")
def test_a_run_outlives_mlflow(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    log_batch, calls = mlflow.MlflowClient.log_batch, []

    def until_it_ends(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        if len(calls) > 6:
            raise mlflow.MlflowException("the server\nhas ended")
        return log_batch(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", until_it_ends)
    run = train(*QUICK, "--trainer.max_epochs=3", f"--trainer.logger={MLFLOW}")
    assert len(calls) == 7
    assert run.results["epochs"] == 3
    assert {"0", "1", "2"} <= {row["epoch"] for row in rows(run.folder)}
    said = capsys.readouterr()
    assert said.out.count("note: MLflow fails (the server has ended) and is left out from here on; metrics") == 1
    assert not said.err


@pytest.mark.filterwarnings("ignore")
def test_a_service_that_does_not_answer_is_named(
    refused: Callable[..., str], tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    place = ("--runs", tmp_path / "runs", "--data.root", data_root)
    said = refused("fit", f"--trainer.logger={MLFLOW}", "--trainer.logger.tracking_uri=http://localhost:1", *place)
    assert "MLFlowLogger cannot start" in said
    assert "give it a tracking_uri that answers" in said
