"""Loggers that are not of this project: where they write, and how a resumed run goes on with W&B and MLflow."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from importlib import import_module, util
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from core.durable_file import replace_file
from core.user_error import UserError

SERVICES = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}  # names of the package, and of the extra that installs it


def place_other_loggers(loggers: Sequence[Namespace], folder: Path, experiment: str) -> None:
    """Give loggers the run's folder, its name, and the id to go on with, unless their arguments say otherwise."""
    for logger in loggers:
        place = signature(resolve_name(logger.class_path)).parameters.get("save_dir")
        if place and place.default is not Parameter.empty:
            default, given = (Path(value or "") for value in (place.default, logger.init_args.save_dir))
            if given == default:
                logger.init_args.save_dir = str(folder / default)
    for logger, service, file in _services(loggers, folder):
        if getattr(util.find_spec(service), "origin", None) is None:  # a folder of that name has none
            raise UserError(f"{logger.class_path} needs {service}; run pip install -e '.[{service}]'.")
        known = {"name": f"{experiment}/{folder.name}", "id": file.read_text() if file.is_file() else None}
        if service == "mlflow":
            known = {f"run_{key}": value for key, value in known.items()}
            if not logger.init_args.get("tracking_uri"):
                known["tracking_uri"] = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
                known["artifact_location"] = (folder / "mlflow").resolve().as_uri()
        for key, value in known.items():
            if logger.init_args.get(key, "") is None:
                logger.init_args[key] = value


@contextmanager
def open_services(trainer: Trainer, folder: Path, written: Set[tuple[str, str]]) -> Iterator[None]:
    """Begin or go on in W&B and MLflow, where no point that is `written` is repeated."""
    services = list(_services(trainer.loggers if trainer.is_global_zero else (), folder))
    try:
        for logger, service, file in services:
            id_ = _begin(logger, service)
            if file.is_file() and file.read_text() == id_:
                _continue(logger, service, written)
            replace_file(file, id_)
            if service == "mlflow":
                _outlive(logger.experiment)
        yield
    finally:
        for _, service, _ in services:
            if service == "wandb" and (run := import_module(service).run):
                run.finish(exit_code=int(sys.exception() is not None))  # the next run of this process is another


def _services(loggers: Sequence[Any], folder: Path) -> Iterator[tuple[Any, str, Path]]:
    """The loggers of W&B and MLflow, before or after they are built, each with the file that keeps the run's id."""
    for logger in loggers:
        class_ = resolve_name(logger.class_path) if isinstance(logger, Namespace) else type(logger)
        for name in (name for base, name in SERVICES.items() if issubclass(class_, base)):
            yield logger, name, folder / f"{name}_id.txt"


def _begin(logger: Any, service: str) -> str:
    """Begin or go on with the run of a service, say how to see it, and give its id."""
    try:
        module = import_module(service)
        if service == "mlflow":
            logger.experiment.update_run(logger.run_id, status="RUNNING")  # what was broken off has failed
            print(f"mlflow      mlflow ui --backend-store-uri {module.get_tracking_uri()}")
        else:
            module.setup()  # to be silent before it warns of an argument of Lightning's
            run, folder = logger.experiment, os.path.relpath(Path(logger.save_dir) / "wandb")
            print(f"wandb       {'disabled' if run.disabled else run.url or f'wandb sync {folder}/offline-run-*'}")
    except Exception as error:  # of whatever kind a service raises
        offline = "log offline with WANDB_MODE=offline" if service == "wandb" else "give it a tracking_uri that answers"
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{type(logger).__name__} cannot begin: {reason}; {offline}, or leave it out.") from error
    return str(logger.version)


def _continue(logger: Any, service: str, written: Set[tuple[str, str]]) -> None:
    """Log to a service nothing that it has: it takes no point back, as `cut_curves` does, and MLflow no setting."""
    log = logger.log_metrics

    def log_others(metrics: Mapping[str, Any], step: int | None = None) -> None:
        if others := {name: value for name, value in metrics.items() if (name, str(step)) not in written}:
            log(others, step=step)

    logger.log_metrics = log_others
    if service == "mlflow":
        logger.log_hyperparams = lambda *_: None


def _outlive(client: Any) -> None:
    """Go on without MLflow from its first failure on, such as a server that has ended."""
    failures: list[Exception] = []

    def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return None if failures else call(*args, **kwargs)
        except Exception as error:  # of whatever kind it raises
            failures.append(error)
            reason = " ".join(str(error).split())
            print(f"note: MLflow fails ({reason}) and is left out from here on; metrics.csv has all figures")

    for name in dir(client):
        if name.startswith(("log_", "set_", "get_run")):
            setattr(client, name, partial(attempt, getattr(client, name)))
