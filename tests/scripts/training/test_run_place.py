from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.train import main
from scripts.training.run_place import label
from tests.conftest import Run


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
    assert "writes no results that could" in refused("fit", "--seeds=2", "--trainer.fast_dev_run=true", *places)
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
