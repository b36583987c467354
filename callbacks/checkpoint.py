"""The best and the last checkpoint of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, by a monitored figure, and `last.ckpt`, written after every epoch.

    Lightning's `save_last` writes nothing in an epoch that is not among the best.

    A run that starts from another's checkpoint takes over that run's best, so that the best of both is tested in the
    end and the new folder is complete by itself. Lightning's `ModelCheckpoint` forgets it when the folder changes.

    Args:
        monitor: The figure that decides.
        mode: Whether it is to be `max` or `min`.
        dirpath: The folder; on the command line always that of the run.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: str = "max", dirpath: Path | None = None) -> None:
        super().__init__(dirpath=dirpath, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """A constant, because Lightning asks for it around each hook of each batch; a run has one such callback."""
        return type(self).__qualname__

    def forget_best(self) -> None:
        """Look for the best from here on, because what is evaluated is another thing than before."""
        self.best_k_models.clear()
        self.best_model_path = self.kth_best_model_path = ""
        self.best_model_score = None
        self.kth_value = torch.tensor(-torch.inf if self.mode == "max" else torch.inf)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and note whether anything will be trained."""
        super().setup(trainer, pl_module, stage)
        self._training = stage == "fit"
        self._copies = trainer.is_global_zero

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint, now that all figures of the epoch are known."""
        started = not str(self.monitor).startswith("val/") or any(
            name.startswith("val/") for name in trainer.callback_metrics
        )
        if started:  # else training ended before the first validation
            super().on_train_epoch_end(trainer, pl_module)
        trainer.save_checkpoint(Path(self.dirpath or "") / "last.ckpt")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run starts from as its own last checkpoint, until it has got further."""
        target = Path(self.dirpath or "") / "last.ckpt"
        if self._training and self._copies and trainer.ckpt_path and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(trainer.ckpt_path, target)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the other run's best; without its file, the best is looked for from here on."""
        theirs, ours = Path(state_dict["best_model_path"]), os.path.join(self.dirpath or "", "best.ckpt")  # noqa: PTH118
        if not self._training or not theirs.is_file():
            return
        if self._copies and not Path(ours).exists():
            Path(ours).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(theirs, ours)
        score = state_dict["best_model_score"]
        super().load_state_dict(
            state_dict
            | {
                "dirpath": self.dirpath,
                "best_model_path": ours,
                "kth_best_model_path": ours,
                "best_k_models": {ours: score},
                "last_model_path": "",
            }
        )
