import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from scripts.train import main
from scripts.training.reproducibility import compare_runs
from tests.callbacks.run.test_interruption import sends
from tests.conftest import Run
from tests.datamodules.test_image_folder import write_source
from tests.discovery import ROOT

ONE = ("--trainer.max_epochs=1", "--data.batch_size=256")


def like(run: Run, *flags: str, status: int = 0) -> None:
    if not status:
        main(["fit", "--like", str(run.folder), *flags])
        return
    with pytest.raises(SystemExit) as left:
        main(["fit", "--like", str(run.folder), *flags])
    assert left.value.code == status


@pytest.mark.slow
def test_the_same_again_is_identical(train: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = train(*ONE, "--seed_everything=3")
    like(run)
    (again,) = set(run.folder.parent.iterdir()) - {run.folder}
    said = capsys.readouterr().out.splitlines()
    tensors = len(run.checkpoint["state_dict"])
    assert said[-1] == f"identical to {run.folder}, bit for bit: {tensors} tensors of last.ckpt, 6 metrics"
    assert (again / "config.yaml").read_text() == (run.folder / "config.yaml").read_text()


@pytest.mark.slow
def test_flags_are_named_when_the_result_is_another(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*ONE)
    (run.folder / "constraints.txt").write_text("torch==1.0\n")
    like(run, "--data.batch_size=128", status=1)
    said = capsys.readouterr().out
    assert f"not identical to {run.folder}:\n  last.ckpt: " in said
    assert "test/accuracy: " in said
    assert "  config data.init_args.batch_size: 128, was 256\n" in said
    assert "  package torch: 2." in said


@pytest.mark.slow
def test_changed_data_are_named(train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_source(tmp_path)
    run = train(
        *("--config", str(ROOT / "configs" / "dogs-vs-cats" / "convnet.yaml"), "--data.root", str(tmp_path)),
        *("--data.folder=images", "--data.image_size=32", "--trainer.max_epochs=1"),
    )
    file = sorted((folder / "train" / "china").iterdir())[0]
    with Image.open(file) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(file)
    like(run, status=1)
    assert "what differed:\n  data: other images, file names or labels" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_broken_off_is_compared_when_it_is_over(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*ONE)
    with pytest.raises(SystemExit):
        main(["fit", "--like", str(run.folder), sends("train", 15)])
    (broken,) = set(run.folder.parent.iterdir()) - {run.folder}
    main(["fit", "--resume", str(broken), "--trainer.callbacks=null"])
    said = capsys.readouterr().out
    assert f"identical to {run.folder}, bit for bit" in said
    assert "this run was resumed after step 2 with config trainer.callbacks: None, was " in said


@pytest.mark.slow
def test_what_nothing_recorded_explains_is_said_to_be_so(train: Callable[..., Run]) -> None:
    run = train(*ONE)
    results = json.loads((run.folder / "results.json").read_text())
    other = train(*ONE)
    results["metrics"]["test/loss"] += 1
    (other.folder / "results.json").write_text(json.dumps(results))
    is_identical, report = compare_runs(run.folder, other.folder)
    assert not is_identical
    assert "the cause may be a nondeterministic" in report[-1]
    (run.folder / "origin.json").unlink()
    assert "it has no record of it" in compare_runs(run.folder, other.folder)[1][-1]


@pytest.mark.slow
def test_refuses_what_nothing_can_be_compared_with(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path
) -> None:
    assert f"{tmp_path} is no folder of a run: it has no config.yaml" in refused("fit", "--like", tmp_path)
    assert "argument --like: expected one argument" in refused("fit", "--like")
    run = train(*ONE)
    assert "--resume, --like and --ckpt_path exclude each other" in refused("fit", "--like", run.folder, "--resume")
    assert "give one of them" in refused("fit", "--like", run.folder, f"--ckpt_path={run.last}")
    last = run.last.read_bytes()
    run.last.write_bytes(last[: len(last) // 2])
    assert "it is truncated or damaged" in refused("fit", "--like", run.folder)
    run.last.unlink()
    assert "it has no checkpoints/last.ckpt" in refused("fit", "--like", run.folder)
    (run.folder / "results.json").unlink()
    sentence = refused("fit", "--like", run.folder)
    assert f"{run.folder} is not complete: it has no results.json" in sentence
    assert f"finish it with --resume {run.folder}" in sentence
    assert len(list(run.folder.parent.iterdir())) == 1
