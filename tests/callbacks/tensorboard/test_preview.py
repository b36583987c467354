import io
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.curves import TensorBoardLogger
from callbacks.tensorboard.preview import Preview, class_table
from datamodules.digits import Digits
from models.classifier import Classifier
from tests.conftest import Run

AFFINE = "[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 30.0, p: 1.0}}]"
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def picture(folder: Path) -> Image.Image:
    (event,) = events(folder).Images("preview/train")
    assert event.step == 0
    return Image.open(io.BytesIO(event.encoded_image_string))


class Plain(LightningDataModule):
    """Has what the Classifier asks for, and neither mean nor counts."""

    class_names = tuple("0123456789")
    preprocessing = MappingProxyType({"channels": 1})

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4)), batch_size=2)

    val_dataloader = train_dataloader


def fit(folder: Path, data: LightningDataModule, logger: bool | Logger | list[Logger], **arguments: Any) -> None:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=logger,
        callbacks=[Preview(4)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        **{"max_steps": 2, **arguments},
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trainer.fit(Classifier(network, 10, torch.optim.SGD), data)


def test_a_run_has_picture_and_table_in_tensorboard(train: Callable[..., Run], digits: Digits) -> None:
    run = train(*SHORT, "--preview.max_images=12")
    assert picture(run.folder).size == (8 * 104 + 8, 2 * (96 + 15 + 8) + 8)
    (text,) = events(run.folder).Tensors("preview/classes/text_summary")
    rows = text.tensor_proto.string_val[0].decode().splitlines()
    counts = torch.bincount(digits.pack.labels[digits.splits["train"]]).tolist()  # type: ignore[union-attr]
    assert rows[2:] == [f"| {digit} | {count} | {count} |" for digit, count in enumerate(counts)]


@pytest.mark.slow
@pytest.mark.parametrize("mixing", ["[]", "[{class_path: datamodules.mixing.MixUp}]"])
def test_training_is_the_same_without(train: Callable[..., Run], mixing: str) -> None:
    flags = (*SHORT, "--data.augmentation", AFFINE, "--data.mixing", mixing, "--model.network.dropout=0.5")
    seen, unseen = train(*flags), train(*flags, "--preview", "null")
    assert "preview/train" not in events(unseen.folder).Tags()["images"]
    weights = unseen.checkpoint["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in seen.checkpoint["state_dict"].items())


def test_draws_no_random_numbers(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Tensor] = []
    show = Preview.on_train_batch_start

    def watched(self: Preview, *args: Any) -> None:
        states.append(torch.get_rng_state())
        show(self, *args)
        states.append(torch.get_rng_state())

    monkeypatch.setattr(Preview, "on_train_batch_start", watched)
    fit(tmp_path, digits, TensorBoardLogger(tmp_path))
    assert picture(tmp_path)
    assert torch.equal(states[0], states[1])


@pytest.mark.slow
def test_a_run_taken_up_shows_nothing(train: Callable[..., Run]) -> None:
    first = train(*SHORT)
    resumed = train("--ckpt_path", str(first.last), "--trainer.max_epochs=2")
    assert "preview/train" not in events(resumed.folder).Tags()["images"]


def test_every_tensorboard_logger_has_it_once(digits: Digits, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    loggers: list[Logger] = [TensorBoardLogger(folder) for folder in folders]
    # The first optimizer step comes in the second epoch, so that the count of steps alone does not tell the first.
    batches = len(digits.train_dataloader())
    fit(
        tmp_path,
        digits,
        [CSVLogger(tmp_path / "c"), *loggers],
        max_steps=-1,
        max_epochs=2,
        accumulate_grad_batches=2 * batches,
    )
    assert picture(folders[0]) == picture(folders[1])


def test_does_nothing_where_there_is_nothing_to_show_or_nowhere(digits: Digits, tmp_path: Path) -> None:
    fit(tmp_path, digits, logger=False)
    fit(tmp_path, digits, CSVLogger(tmp_path / "csv"))
    fit(tmp_path, Plain(), TensorBoardLogger(tmp_path / "plain"))
    assert not events(tmp_path / "plain").Tags()["images"]


def test_trains_without_loggers_from_the_command_line(train: Callable[..., Run]) -> None:
    assert train(*SHORT, "--trainer.logger=false").results["steps"] == 2


def test_other_processes_leave_it_to_the_first(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    trainer = Trainer(logger=TensorBoardLogger(tmp_path), accelerator="cpu", enable_progress_bar=False)
    trainer.datamodule = digits  # type: ignore[attr-defined]
    Preview().on_train_batch_start(trainer, LightningModule(), None, 0)
    assert not list(tmp_path.iterdir())


def test_table_lists_all_classes() -> None:
    assert class_table(["a|b", "caf\udce9"], [1000, 2], [501, 501]).splitlines()[2:] == [
        "| a\\|b | 1,000 | 501 |",
        "| caf\\\\xe9 | 2 | 501 |",
    ]


def test_refuses_to_show_no_images() -> None:
    with pytest.raises(ValueError, match="max_images is 0"):
        Preview(0)
