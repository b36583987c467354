from collections.abc import Callable
from pathlib import Path

import pytest

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
        (["--trainer.fast_dev_run=true"], "keeps no files of the run; leave it out to resume"),
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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--resume",), "There is no run in {runs}/digits-convnet to resume"),
        (("--resume", "{runs}"), "{runs} is no folder of a run: it has no config.yaml"),
        (("--resume", "--ckpt_path", "last.ckpt"), "exclude each other; give one of them"),
        (("--resume", "--data.fold", "1"), "A resumed run keeps its fold, because it was trained on the others"),
    ],
)
def test_says_what_cannot_be_resumed(
    refused: Callable[..., str], tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    runs = str(tmp_path / "runs")
    error = refused("fit", "--runs", runs, *(flag.format(runs=runs) for flag in flags))
    assert words.format(runs=runs) in error
