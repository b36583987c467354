from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.train import main
from scripts.training.run_place import label
from tests.conftest import Run


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_what_is_refused_leaves_a_run_as_it_was(
    train: Callable[..., Run], resume: Callable[..., Run], refused: Callable[..., str]
) -> None:
    run = train("--trainer.max_epochs=2", "--data.batch_size=512")
    before = contents(run.folder)
    longer = "--trainer.max_epochs=4"
    for flags, words in (
        (["--trainer.max_epoch=5"], "did you mean"),
        (["--checkpoint.monitor=val/score"], "does not say whether"),
        (["--trainer.fast_dev_run=true"], "keeps nothing"),
        ([longer, "--data.batch_size=0"], "give a whole number"),
        ([longer, "--data.val_size=5000"], "of 1438 images"),
        ([longer, "--model.network.channels=[8]"], "do not fit"),
        ([longer, "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"], "was trained by torch.optim.AdamW"),
        ([longer, "--feature_cache=callbacks.feature_cache.FeatureCache"], "has no part backbone"),
        ([longer, "--finite_guard.on_nan=rollback", "--model.scheduler=torch.optim.lr_scheduler.StepLR"], "step_size"),
        (["--trainer.max_epochs=1"], "trainer.max_epochs is 1, but 2 epochs are done; give more, or leave it out"),
        ([longer, "--checkpoint.monitor=val/f1"], "is val/f1, which is not logged"),
        ([longer, "--early_stopping.monitor=train/f1"], "is train/f1, which is not logged"),
    ):
        assert words in refused("fit", "--resume", run.folder, *flags)
        assert contents(run.folder) == before, flags
    assert resume(run, "--trainer.max_epochs=3").checkpoint["epoch"] == 3


def test_a_refused_command_leaves_no_run_even_where_it_is_refused_after_an_epoch(
    refused: Callable[..., str], tmp_path: Path, data_root: Path
) -> None:
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    refused("fit", "--checkpoint.monitor=val/f1", "--data.batch_size=512", *places)
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_dry_run_leaves_no_run(
    refused: Callable[..., str], tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("--runs", str(tmp_path / "runs"), "--data.root", str(data_root))
    main(["fit", "--trainer.fast_dev_run=2", *places])
    said = capsys.readouterr().out
    assert "test/accuracy" in said
    assert "nothing is kept" in said
    assert "keeps nothing that runs" in refused("fit", "--seeds=2", "--trainer.fast_dev_run=true", *places)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ""),
        (["--config", "configs/mnist/mlp.yaml", "--runs=x", "--data.root", "y", "--experiment", "z"], ""),
        (["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e-3"], "_optimizer=SGD_lr=1e-3"),
        (["--data.folder", "~/my/photos/", "--early_stopping=null"], "_folder=photos_early_stopping=null"),
        (["--data.table", "~/pets/breeds.csv", "--model.network=models.mlp.MLP"], "_table=breeds.csv_network=MLP"),
        (["--model.network.channels=[32,64]", "--data.augmentation", "[{a: b}]"], "_channels=32,64"),
        (["--model.weight=../../x y", "--seed_everything", "3"], "_seed_everything=3"),
        (["--model.network.width=9", "--data.folds=5", "--data.fold=2"], "_folds=5_fold=2_width=9"),
    ],
)
def test_a_folder_is_named_after_short_settings(flags: list[str], expected: str) -> None:
    assert label(flags) == expected


def test_the_name_of_a_folder_has_room_in_a_file_system() -> None:
    assert len(label([f"--x.name_{number}=ä" for number in range(99)]).encode()) <= 200


def test_a_run_shows_the_settings_that_it_was_given(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=1", "--data.batch_size", "512", "--test=false")
    assert run.folder.name.endswith("_max_epochs=1_batch_size=512_test=false")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--resume",), "There is no run in {runs}/digits-convnet to go on with"),
        (("--resume", "{runs}"), "{runs} is no folder of a run: it has no config.yaml"),
        (("--resume", "--ckpt_path", "last.ckpt"), "give one of them"),
        (("--resume", "--data.fold", "1"), "A run that goes on keeps its fold, because it was trained on the others"),
    ],
)
def test_says_what_cannot_be_gone_on_with(
    refused: Callable[..., str], tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    runs = str(tmp_path / "runs")
    error = refused("fit", "--runs", runs, *(flag.format(runs=runs) for flag in flags))
    assert words.format(runs=runs) in error
