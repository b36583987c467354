from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kornia.augmentation import RandomAffine
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.swa import SWA
from core.user_error import UserError
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.mlp import MLP
from models.serialization.checkpoint import read_checkpoint
from tests.conftest import Run, quiet_trainer

FLAGS = ("--weight_average=callbacks.swa.SWA", "--early_stopping=null", "--data.batch_size=128")
SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
AFFINE = "[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]"


def every_epoch(folder: Path) -> str:
    return (
        f"--trainer.callbacks+={{class_path: {SAVER}, init_args: {{save_top_k: -1, dirpath: {folder}, "
        "filename: '{epoch}', save_on_train_epoch_end: true}}"
    )


@pytest.mark.slow
def test_equals_the_mean_of_epochs_with_torchs_statistics(
    train: Callable[..., Run], data_root: Path, tmp_path: Path
) -> None:
    epochs = tmp_path / "epochs"
    # Dropout would be drawn otherwise in the reference.
    train(
        *(*FLAGS, "--trainer.max_epochs=4", "--model.scheduler=null", "--data.augmentation", AFFINE),
        *("--weight_average.start=0.5", "--model.network.dropout=0", every_epoch(epochs)),
    )
    files = [epochs / f"epoch={epoch}.ckpt" for epoch in range(4)]
    saved = [read_checkpoint(file) for file in files]
    assert ["raw_state_dict" in checkpoint for checkpoint in saved] == [False, False, True, True]

    classifier = Classifier.load_from_checkpoint(files[3])
    mean = AveragedModel(classifier)
    for checkpoint in saved[2:]:
        classifier.load_state_dict(checkpoint["raw_state_dict"], strict=False)
        mean.update_parameters(classifier)
    data = Digits(root=data_root, batch_size=128, augmentation=[RandomAffine(degrees=10.0)])
    data.setup("fit")
    update_bn((images for images, _ in data.training_batches(3, torch.device("cpu"))), mean)
    for name, value in mean.module.state_dict().items():
        if name.startswith("network."):
            assert torch.allclose(value.float(), saved[3]["state_dict"][name].float(), atol=1e-5), name


@pytest.mark.slow
def test_the_best_is_chosen_among_averages(train: Callable[..., Run]) -> None:
    run = train(*FLAGS, "--trainer.max_epochs=5", "--weight_average.start=4", "--checkpoint.monitor=train/accuracy")
    best = read_checkpoint(run.best)
    assert best["epoch"] == 5
    assert "raw_state_dict" in best
    # Without averaging, the rising learning rate would have let an earlier epoch win.
    spoilt = train(
        *(*FLAGS, "--trainer.max_epochs=3", "--weight_average.start=2"),
        *("--model.scheduler=torch.optim.lr_scheduler.StepLR", "--model.scheduler.step_size=1"),
        "--model.scheduler.gamma=100",
    )
    assert read_checkpoint(spoilt.best)["epoch"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--early_stopping.patience=3"], "may end training before epoch 22, where averaging begins; leave it out"),
        (
            ["--early_stopping=null", "--weight_average.start=30"],
            "start is 30, but trainer.max_epochs is 30; give more epochs",
        ),
        (["--early_stopping=null", "--weight_average.start=1.5"], "start is 1.5; give a number of epochs"),
        (["--early_stopping=null", "--weight_average.start=-1"], "start is -1; give a number of epochs"),
        (
            ["--early_stopping=null", "--weight_average.start=1", "--trainer.max_steps=41"],
            "start is 1, but training ends after 41 steps, which are 1.95 epochs; give fewer.",
        ),
        (
            ["--early_stopping=null", "--trainer.max_epochs=-1"],
            "start is 0.75, but trainer.max_epochs is -1; give more epochs, or",
        ),
    ],
)
def test_refuses_what_never_averages(
    refused: Callable[..., str], tmp_path: Path, data_root: Path, flags: list[str], words: str
) -> None:
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    assert words in refused("fit", "--weight_average=callbacks.swa.SWA", *flags, *places)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.slow
def test_a_resumed_run_averages_the_epochs_that_start_says(
    train: Callable[..., Run], resume: Callable[..., Run], refused: Callable[..., str]
) -> None:
    run = train(*FLAGS, "--trainer.max_epochs=2", "--weight_average.start=1", "--data.limit=300")
    error = refused("fit", "--resume", run.folder, "--trainer.max_epochs=4", "--weight_average.start=0")
    assert (
        "start is 0, but the run stands after 2 epochs with an average of 1 of them, where 2 would have to be" in error
    )
    longer = resume(run, "--trainer.max_epochs=4", "--weight_average.start=0.75")
    assert longer.checkpoint["callbacks"]["SWA"]["updates"] == 1
    assert read_checkpoint(longer.best)["epoch"] == 4


def fit_without_data_module(network: torch.nn.Module, folder: Path) -> SWA:
    average = SWA(start=0)
    loader = DataLoader(TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 10), batch_size=10)
    trainer = quiet_trainer(folder, max_epochs=2, callbacks=[average])
    trainer.fit(Classifier(network, 10, lambda groups: torch.optim.SGD(groups, lr=0.1)), loader, loader)
    return average


def test_other_loaders_do_where_there_is_no_batch_norm(tmp_path: Path) -> None:
    assert fit_without_data_module(MLP(64, 10), tmp_path).updates == 2
    with pytest.raises(UserError, match="from the training images again"):
        fit_without_data_module(ConvNet(1, (8, 8), 10), tmp_path)
