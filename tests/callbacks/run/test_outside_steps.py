from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run.outside_steps import STEP_HOOKS, OutsideSteps
from tests.conftest import quiet_trainer
from tests.discovery import callback_classes


class Counting(OutsideSteps):
    def __init__(self) -> None:
        self.epochs = 0
        self.asked: list[str] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs += 1

    @property
    def state_key(self) -> str:
        """Asked for by Lightning before each hook that it calls."""
        self.asked.append("hook")
        return "Counting"


def test_every_hook_of_a_step_is_one_of_lightnings() -> None:
    assert all(callable(getattr(Callback, hook)) for hook in STEP_HOOKS)
    assert not any(callable(getattr(OutsideSteps, hook)) for hook in STEP_HOOKS)


def test_steps_ask_it_for_nothing_and_epochs_do(digits: Any, tmp_path: Any, classifier: Callable[[], Any]) -> None:
    counted = {}
    for batches in (2, 12):
        counting = Counting()
        quiet_trainer(
            tmp_path, max_epochs=1, limit_train_batches=batches, limit_val_batches=1, callbacks=[counting]
        ).fit(classifier(), digits)
        assert counting.epochs == 1
        counted[batches] = len(counting.asked)
    assert counted[2] == counted[12] > 0


def test_none_of_its_kind_has_hooks_of_steps_after_all() -> None:
    kinds = [kind for kind in callback_classes() if issubclass(kind, OutsideSteps)]
    assert len(kinds) > 5
    assert not any(callable(getattr(kind, hook)) for kind in kinds for hook in STEP_HOOKS)
