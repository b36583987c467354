"""Loggers of other projects: where they write, and how a resumed run continues in W&B and MLflow."""

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

SERVICES = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}  # the package, and the extra that installs it


def place_other_loggers(loggers: Sequence[Namespace], folder: Path, experiment: str) -> None:
    """Set the folder, the name and the id of the run in the loggers' arguments that the user has left at a default."""
    for logger in loggers:
        save_dir = signature(resolve_name(logger.class_path)).parameters.get("save_dir")
        if save_dir and save_dir.default is not Parameter.empty:
            default = Path(save_dir.default or "")
            if Path(logger.init_args.save_dir or "") == default:
                logger.init_args.save_dir = str(folder / default)
    for logger, service, id_file in _services(loggers, folder):
        if getattr(util.find_spec(service), "origin", None) is None:  # a folder of that name has no origin
            raise UserError(f"{logger.class_path} needs {service}; run pip install -e '.[{service}]'.")
        defaults = {"name": f"{experiment}/{folder.name}", "id": id_file.read_text() if id_file.is_file() else None}
        if service == "mlflow":
            defaults = {f"run_{key}": value for key, value in defaults.items()}
            if not logger.init_args.get("tracking_uri"):
                defaults["tracking_uri"] = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
                defaults["artifact_location"] = (folder / "mlflow").resolve().as_uri()
        for key, value in defaults.items():
            if logger.init_args.get(key, "") is None:
                logger.init_args[key] = value


@contextmanager
def open_services(trainer: Trainer, folder: Path, logged: Set[tuple[str, str]]) -> Iterator[None]:
    """Start or continue the run in W&B and MLflow, and finish it at the end of the block.

    Args:
        trainer: Its loggers are opened, on rank 0 alone.
        folder: The run's folder.
        logged: Metric and step of each point that a service has already; it is not logged again.
    """
    services = list(_services(trainer.loggers if trainer.is_global_zero else (), folder))
    try:
        for logger, service, id_file in services:
            run_id = _start(logger, service)
            if id_file.is_file() and id_file.read_text() == run_id:
                _skip_logged(logger, service, logged)
            replace_file(id_file, run_id)
            if service == "mlflow":
                _tolerate_failures(logger.experiment)
        yield
    finally:
        for _, service, _ in services:
            if service == "wandb" and (run := import_module(service).run):
                run.finish(exit_code=int(sys.exception() is not None))  # or a later run of this process would join it


def _services(loggers: Sequence[Any], folder: Path) -> Iterator[tuple[Any, str, Path]]:
    """Yield each logger of W&B and MLflow, built or not, its service, and the file with the run's id."""
    for logger in loggers:
        class_ = resolve_name(logger.class_path) if isinstance(logger, Namespace) else type(logger)
        for base, service in SERVICES.items():
            if issubclass(class_, base):
                yield logger, service, folder / f"{service}_id.txt"


def _start(logger: Any, service: str) -> str:
    """Start or continue the run in a service, print how to see it there, and return its id."""
    try:
        module = import_module(service)
        if service == "mlflow":
            logger.experiment.update_run(logger.run_id, status="RUNNING")  # an interrupted run has the status FAILED
            print(f"mlflow      mlflow ui --backend-store-uri {module.get_tracking_uri()}")
        else:
            module.setup()  # now, to be silent before it warns of an argument of Lightning's
            run, folder = logger.experiment, os.path.relpath(Path(logger.save_dir) / "wandb")
            print(f"wandb       {'disabled' if run.disabled else run.url or f'wandb sync {folder}/offline-run-*'}")
    except Exception as error:  # a service raises errors of any type
        offline = "log offline with WANDB_MODE=offline" if service == "wandb" else "give it a tracking_uri that answers"
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{type(logger).__name__} cannot start: {reason}; {offline}, or leave it out.") from error
    return str(logger.version)


def _skip_logged(logger: Any, service: str, logged: Set[tuple[str, str]]) -> None:
    """Log no point twice: a service cannot remove points, as `cut_curves` does. MLflow cannot change settings."""
    log_metrics = logger.log_metrics

    def log_new(metrics: Mapping[str, Any], step: int | None = None) -> None:
        if new := {name: value for name, value in metrics.items() if (name, str(step)) not in logged}:
            log_metrics(new, step=step)

    logger.log_metrics = log_new
    if service == "mlflow":
        logger.log_hyperparams = lambda *_: None


def _tolerate_failures(client: Any) -> None:
    """Continue the run without MLflow after its first failure, such as a stopped server."""
    failures: list[Exception] = []

    def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return None if failures else call(*args, **kwargs)
        except Exception as error:  # a service raises errors of any type
            failures.append(error)
            reason = " ".join(str(error).split())
            print(f"note: MLflow fails ({reason}) and is left out from here on; metrics.csv has all metrics")

    for name in dir(client):
        if name.startswith(("log_", "set_", "get_run")):
            setattr(client, name, partial(attempt, getattr(client, name)))
