import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from callbacks.checkpoint import Checkpoint
from callbacks.ema import EMA
from callbacks.finite_guard import MOST_IN_A_ROW, FiniteGuard
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from tests.conftest import Run, quiet_trainer

SHORT = ("--trainer.max_epochs=3", "--early_stopping=null", "--data.batch_size=256")  # of 6 batches
EVERY = tuple(range(10**3))

fused = pytest.mark.parametrize("fused", [False, True], ids=["not fused", "fused"])


class Poison(Callback):
    """Makes one pixel of some batches NaN; batches are counted over epochs."""

    def __init__(self, batches: tuple[int, ...] = (8,), value: float = float("nan")) -> None:
        self.batches = batches
        self.value = value

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch * int(trainer.num_training_batches) + batch_idx in self.batches:
            batch[0][0, 0, 0, 0] = self.value


def with_poison(*batches: int) -> str:
    """The flag."""
    return (
        f"--trainer.callbacks={json.dumps([{'class_path': f'{__name__}.Poison', 'init_args': {'batches': batches}}])}"
    )


class Losses(Callback):
    """Notes the loss of every batch, and the weights before it."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.weights: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.weights.append(torch.cat([value.flatten() for value in pl_module.parameters()]).detach().clone())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def fit(
    digits: Digits, folder: Path, guard: FiniteGuard, *others: Callback, fused: bool = False, **options: Any
) -> Classifier:
    torch.manual_seed(0)
    classifier = Classifier(
        ConvNet(1, (8, 8), 10), 10, lambda groups: torch.optim.AdamW(groups, lr=0.003, fused=fused or None)
    )
    quiet_trainer(folder, **({"max_epochs": 1} | options), callbacks=[*others, guard]).fit(classifier, digits)
    return classifier


class WithoutGradients(Callback):
    """Takes the gradients of some batches away, as one who leaves out a step by hand does."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step % 2:
            for parameter in pl_module.parameters():
                parameter.grad = None


@fused
def test_a_step_without_gradients_is_taken_and_changes_nothing(digits: Digits, tmp_path: Path, fused: bool) -> None:
    guard = FiniteGuard()
    losses = Losses()
    fit(digits, tmp_path, guard, WithoutGradients(), losses, fused=fused, limit_train_batches=4)
    assert guard.nonfinite_steps == 0
    changed = [not torch.equal(*pair) for pair in itertools.pairwise(losses.weights)]
    assert changed == [True, False, True]


def test_a_loss_that_is_not_finite_is_told_without_gradients_too(digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is nan at learning rate [\d.]+, without gradients"):
        fit(digits, tmp_path / "new", FiniteGuard(), WithoutGradients(), Poison((1,)))
    assert (tmp_path / "new" / "nonfinite_step_1.pt").is_file()


def assert_finite(state: dict[str, Tensor]) -> None:
    assert all(bool(value.isfinite().all()) for value in state.values())


@fused
def test_a_loss_that_is_not_finite_stops_with_what_to_look_at(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], fused: bool
) -> None:
    flags = (*SHORT, with_poison(8), "--model.optimizer.lr=0.01", "--model.scheduler=null")
    with pytest.raises(SystemExit) as exit_:
        train(*flags, f"--model.optimizer.fused={json.dumps(fused)}")
    assert exit_.value.code == 1, "not 2: it is not the command line's mistake"
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "stopped in step 8" in error
    assert "the loss is nan" in error
    assert "learning rate 0.01" in error
    (folder,) = tmp_path.glob("runs/*/*")
    (saved,) = folder.glob("nonfinite_step_*.pt")
    assert str(saved) in error
    facts = torch.load(saved, weights_only=True)
    ((images, labels),) = facts["batches"]
    assert images.shape == (256, 1, 8, 8)
    assert images.isnan().nonzero().tolist() == [[0, 0, 0, 0]]
    assert labels.shape == (256,)
    assert facts["step"] == 8
    assert any(name in error for name in facts["gradient_norms"])
    for file in (folder / "checkpoints").iterdir():
        checkpoint = torch.load(file, weights_only=True)
        assert checkpoint["epoch"] == 1
        assert_finite(checkpoint["state_dict"])


@pytest.mark.any_device
@fused
@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_step_that_is_skipped_leaves_no_trace(digits: Digits, tmp_path: Path, fused: bool, accumulated: int) -> None:
    guard, losses = FiniteGuard("skip"), Losses()
    classifier = fit(digits, tmp_path, guard, Poison((2, 7)), losses, fused=fused, accumulate_grad_batches=accumulated)
    assert guard.nonfinite_steps == 2
    assert [number for number, loss in enumerate(losses.losses) if loss != loss] == [2, 7]
    for number, (before, after) in enumerate(zip(losses.weights, losses.weights[1:], strict=False)):
        steps = number % accumulated == accumulated - 1
        left_out = number // accumulated in {2 // accumulated, 7 // accumulated}
        assert torch.equal(before, after) == (left_out or not steps)
    assert_finite(classifier.state_dict())
    counted = 1294 - 64 * 2 * accumulated
    assert classifier.train_metrics.total == counted
    assert int(classifier.network.state_dict()["stages.1.num_batches_tracked"]) == 21 - 2 * accumulated


@pytest.mark.any_device
@fused
def test_training_without_such_a_step_is_what_it_is_without_the_guard(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    class Absent(FiniteGuard):
        def on_before_optimizer_step(self, *_: Any) -> None:
            pass

    with_, without = (fit(digits, tmp_path, guard(), fused=fused) for guard in (FiniteGuard, Absent))
    for name, value in with_.state_dict().items():
        assert torch.equal(value, without.state_dict()[name])


def test_a_gradient_that_is_not_finite_is_left_out_though_the_loss_is_finite(digits: Digits, tmp_path: Path) -> None:
    class Overflow(Callback):
        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.global_step == 4:
                parameter = next(pl_module.parameters())
                assert parameter.grad is not None
                parameter.grad[0] = torch.inf

    with pytest.raises(FloatingPointError, match=r"step 4, .*the largest gradient inf \(network.stages.0.weight\)"):
        fit(digits, tmp_path, FiniteGuard(), Overflow())
    guard = FiniteGuard("skip")
    assert_finite(fit(digits, tmp_path, guard, Overflow(), gradient_clip_val=1.0).state_dict())
    assert guard.nonfinite_steps == 1


def test_rollback_goes_back_to_the_last_checkpoint_and_on_with_other_data(digits: Digits, tmp_path: Path) -> None:
    guard, losses = FiniteGuard("rollback"), Losses()
    saving: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True}
    classifier = fit(digits, tmp_path, guard, Poison((5, 30)), losses, Checkpoint(), **saving)
    assert torch.equal(losses.weights[6], losses.weights[5]), "there is no checkpoint yet"
    assert torch.equal(losses.weights[31], losses.weights[21])
    assert not torch.equal(losses.weights[32], losses.weights[22])
    assert guard.nonfinite_steps == 2
    assert_finite(classifier.state_dict())
    left_out = digits.batch_size
    assert int(classifier.train_metrics.total) == sum(digits.class_counts) - left_out, "the epoch's count goes on"


class Averages(EMA):
    """Notes the average before every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[int, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert self._average is not None
        values = torch.cat([value.double().flatten() for value in self._average.values()])
        self.noted.append((self.updates, values))


def test_rollback_goes_back_with_the_average_too(digits: Digits, tmp_path: Path) -> None:
    averages = Averages()
    saving: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True}
    fit(digits, tmp_path, FiniteGuard("rollback"), Poison((40,)), averages, Checkpoint(), **saving)
    (updates, back), (updates_before, before), (updates_saved, saved) = (averages.noted[step] for step in (41, 40, 21))
    assert updates == updates_saved + 1  # of the weights that were gone back to
    assert updates_before == 40
    assert (back - saved).norm() < (before - saved).norm() / 5


class Validated(Callback):
    """Notes the epochs that are validated."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(trainer.current_epoch)


class Overflow(Callback):
    """Makes a weight infinite after the last step of the second epoch."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and trainer.current_epoch == 1:
            next(pl_module.parameters()).data.view(-1)[0] = float("inf")


@fused
@pytest.mark.parametrize("fault", [Overflow(), Poison((11,))], ids=["the weights", "the last loss"])
def test_an_epoch_that_ends_in_numbers_that_are_not_finite_is_not_validated(
    digits: Digits, tmp_path: Path, fused: bool, fault: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "batch_size", 256)  # 6 batches
    validated = Validated()
    with pytest.raises(FloatingPointError):
        fit(digits, tmp_path, FiniteGuard(), validated, fault, fused=fused, max_epochs=3, num_sanity_val_steps=0)
    assert validated.epochs == [0]


def test_rollback_needs_checkpoints(refused: Callable[..., str], tmp_path: Path, data_root: Path) -> None:
    flags = ("--finite_guard.on_nan=rollback", "--checkpoint=null", "--runs", tmp_path, "--data.root", data_root)
    assert "no checkpoint of whole weights is written to go back to; leave out --checkpoint null" in refused(
        "fit", *flags
    )


def test_earlier_checkpoints_held_a_state_to_go_back_to() -> None:
    guard = FiniteGuard("rollback")
    guard.load_state_dict({"nonfinite_steps": 2, "in_a_row": 0, "good": {"step": 100}})
    assert guard.nonfinite_steps == 2


def test_nothing_but_such_steps_stops_in_any_case(digits: Digits, tmp_path: Path) -> None:
    guard = FiniteGuard("skip")
    with pytest.raises(FloatingPointError, match=f"such steps in a row: {MOST_IN_A_ROW}"):
        fit(digits, tmp_path, guard, Poison(EVERY))
    assert guard.nonfinite_steps == MOST_IN_A_ROW
    assert len(list(tmp_path.glob("nonfinite_step_*.pt"))) == 3


@pytest.mark.parametrize("average", [(), ("--weight_average=callbacks.ema.EMA",)], ids=["plain", "EMA"])
def test_weights_that_overflow_are_neither_written_nor_called_best(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], average: tuple[str, ...]
) -> None:
    flags = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=3e38", "--model.scheduler=null")
    steep = f"--model.class_weights={[1000] * 10}"
    with pytest.raises(SystemExit) as exit_:
        train(*SHORT, *flags, steep, *average, "--trainer.limit_train_batches=1")
    assert exit_.value.code == 1
    assert "weights are not kept" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/*/checkpoints/*"))


def test_a_full_disk_hides_no_such_step(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FloatingPointError, match=r"the loss is nan .*could not be saved \(.*No space left on device"):
        fit(digits, tmp_path, FiniteGuard(), Poison((2,)))


class Save(Callback):
    """Writes a checkpoint in the middle of the second epoch."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "middle.ckpt")


@pytest.mark.slow
@pytest.mark.any_device
@fused
def test_a_resumed_run_is_the_unbroken_one(train: Callable[..., Run], fused: bool) -> None:
    # The checkpoint is that of a step that was left out.
    callbacks = with_poison(3, 8, 10)[:-1] + f', {{"class_path": "{__name__}.Save"}}]'
    fused_flag = f"--model.optimizer.fused={json.dumps(fused)}"
    whole = train(*SHORT, "--finite_guard.on_nan=skip", callbacks, fused_flag)
    assert whole.results["metrics"]["train/nonfinite_steps"] == 3
    assert_same_end(whole, train("--ckpt_path", str(whole.folder / "middle.ckpt")))


@pytest.mark.slow
def test_a_run_resumed_from_a_checkpoint_goes_back_to_it_as_the_unbroken_one_does(
    train: Callable[..., Run], resume: Callable[..., Run]
) -> None:
    flags = (*SHORT, "--finite_guard.on_nan=rollback", with_poison(3, 8, 10), "--model.scheduler=null")
    whole, first = train(*flags), train(*flags, "--trainer.max_epochs=1")
    assert_same_end(whole, resume(first, "--trainer.max_epochs=3"))


def assert_same_end(whole: Run, resumed: Run) -> None:
    for name, value in whole.checkpoint["state_dict"].items():
        assert torch.equal(value, resumed.checkpoint["state_dict"][name])
    assert resumed.results["metrics"] == whole.results["metrics"]


@pytest.mark.slow
def test_the_averages_stay_finite(train: Callable[..., Run]) -> None:
    for fused in ("true", "false"):
        flags = ("--finite_guard.on_nan=skip", "--weight_average=callbacks.ema.EMA", f"--model.optimizer.fused={fused}")
        run = train(*SHORT, with_poison(1, 8), *flags)
        assert_finite(run.checkpoint["state_dict"])
        assert run.results["metrics"]["train/loss"] > 0


@pytest.mark.gpu
@pytest.mark.usefixtures("synchronizes_again")
def test_a_gpu_is_not_waited_for(digits: Digits, tmp_path: Path) -> None:
    class Unsynchronised(FiniteGuard):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
            assert optimizer.param_groups[0]["fused"], "on a GPU that is the default"
            torch.cuda.set_sync_debug_mode("error")
            try:
                super().on_before_optimizer_step(trainer, pl_module, optimizer)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    guard = Unsynchronised("skip")
    assert_finite(fit(digits, tmp_path, guard).state_dict())
    poisoned = FiniteGuard("skip")
    assert_finite(fit(digits, tmp_path, poisoned, Poison((2, 7))).state_dict())
    assert (guard.nonfinite_steps, poisoned.nonfinite_steps) == (0, 2)
