"""The hyperparameters of runs beside their metrics."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.curves import SETTINGS, TensorBoardLogger
from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.run_record import RunRecord


class Hyperparameters(OutsideSteps):
    """Fills TensorBoard's HParams tab, which sorts runs by hyperparameters and metrics.

    The hyperparameters are those settings of the configuration that affect what is learnt, named as their flags: every
    class, every number, and every other argument that differs from its default, but no paths. The metrics are the last
    point of each curve and, after training, `best/<metric>`, the best value of the metric that selects checkpoints.

    A resumed run replaces the hyperparameters by its current ones. Other loggers receive the whole configuration.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the configuration, at the start of a fit."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none
        record = next((callback for callback in callbacks if isinstance(callback, RunRecord)), None)
        if stage != "fit" or record is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_hyperparams(record.config)
            if isinstance(logger, TensorBoardLogger):
                from callbacks.tensorboard.run_settings import run_settings, write_settings

                settings = run_settings(record.config, str(trainer.precision), trainer.world_size)
                write_settings(logger.folder / SETTINGS, settings)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the best value of the monitored metric."""
        monitor: Any = getattr(trainer.checkpoint_callback, "monitor", None)
        best: Any = getattr(trainer.checkpoint_callback, "best_model_score", None)
        if monitor and best is not None:
            for logger in trainer.loggers:
                logger.log_metrics({f"best/{monitor}": float(best)}, step=trainer.global_step)
