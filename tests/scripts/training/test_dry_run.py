from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import ConstantLR

from callbacks.run.interruption import Interruption
from core.user_error import UserError
from scripts.training.dry_run import DryRun


class Watch(Callback):
    """Notes what else is there."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        self.validates = trainer.enable_validation
        self.scheduler = trainer.lr_scheduler_configs[0].scheduler


def test_trains_with_one_callback_and_leaves_nothing(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    watch = Watch()
    trial = DryRun(["--data.root", str(data_root)], watch, {"max_steps": 3}, scheduled=False)
    assert trial.trainer.global_step == 3
    interruption, only = watch.callbacks
    assert isinstance(interruption, Interruption)
    assert only is watch
    assert not watch.validates
    assert isinstance(watch.scheduler, ConstantLR)
    assert (trial.runs, trial.experiment) == (Path("runs"), "digits-convnet")
    assert not list(tmp_path.iterdir())


class Frozen(Callback):
    """Notes in which epochs the stages are trained."""

    def __init__(self) -> None:
        self.trained: dict[int, bool] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.trained[trainer.current_epoch] = pl_module.get_parameter("network.stages.0.weight").requires_grad


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # those that are frozen, as they should be
def test_its_epochs_unfreeze_nothing(data_root: Path) -> None:
    frozen = Frozen()
    flags = ["--data.root", str(data_root), "--data.limit=200", "--model.freeze=[stages]"]
    trainer = {"max_epochs": -1, "max_steps": 12}
    DryRun([*flags, "--model.unfreeze={1: [stages]}"], frozen, trainer, scheduled=False)
    assert len(frozen.trained) > 1
    assert not any(frozen.trained.values())


@pytest.mark.slow
def test_begins_anew(tmp_path: Path, data_root: Path, train: Any) -> None:
    run = train("--trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"leave it out, or give that run's config\.yaml with --config"):
        DryRun(["--ckpt_path", str(run.last)], Watch(), {}, scheduled=True)
