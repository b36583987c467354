import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from callbacks.whitening import whitening_kernels
from scripts.find_lr import main
from tests.conftest import Run


@pytest.fixture
def find_lr(tmp_path: Path, data_root: Path) -> Callable[..., None]:
    def run(*flags: str) -> None:
        places = ["--runs", str(tmp_path / "runs"), "--data.root", str(data_root)]
        main([*flags, *places, "--output", str(tmp_path / "lr.png")])

    return run


@pytest.fixture
def refused_test(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Runs the test on a user's mistake, and gives the one sentence that it answers."""

    def run(*flags: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            find_lr(*flags)
        assert exit_.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return error

    return run


@pytest.mark.slow
def test_training_afterwards_is_unchanged(
    train: Callable[..., Run], find_lr: Callable[..., None], tmp_path: Path
) -> None:
    flags = ("--trainer.max_epochs=2", "--model.network.dropout=0.1")
    before = train(*flags)
    files = set(tmp_path.rglob("*"))
    find_lr(*flags, "--steps=60", "--max_lr=1")
    made = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - files}
    assert {re.sub(r"\d{4}-.*", "", path) for path in made} == {
        *("lr.png", "runs/digits-convnet/range-test", "runs/digits-convnet/range-test/")
    }
    after = train(*flags)
    weights = before.checkpoint["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in after.checkpoint["state_dict"].items())
    assert after.results["metrics"] == before.results["metrics"]


@pytest.mark.slow
def test_prints_the_suggestion_with_its_rule_and_draws_the_curve(
    find_lr: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find_lr("--min_lr=1e-5", "--experiment=mine")
    out = capsys.readouterr().out
    found = re.search(
        r"^suggestion  (\S+) \(steepest descent of the smoothed loss\); a tenth of the minimum's: (\S+)$", out, re.M
    )
    assert found
    assert 3e-4 < float(found[1]) < 1e-2
    folder = Path(re.search(r"^TensorBoard (.+)$", out, re.M)[1])  # type: ignore[index]
    assert folder.parent == tmp_path / "runs" / "mine" / "range-test"
    events = EventAccumulator(str(folder)).Reload()
    (picture,) = events.Images("range_test")
    with Image.open(tmp_path / "lr.png") as drawn:
        assert drawn.convert("RGB") == Image.open(io.BytesIO(picture.encoded_image_string)).convert("RGB")


@pytest.mark.slow
def test_few_images_are_shown_again(find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    find_lr("--data.limit=200", "--trainer.accumulate_grad_batches=2", "--model.network.batch_norm=false")
    assert "suggestion" in capsys.readouterr().out


@pytest.mark.slow
def test_a_schedule_and_its_momentum_are_left_out(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    one_cycle = ("--model.scheduler=torch.optim.lr_scheduler.OneCycleLR", "--model.scheduler.max_lr=0.01")
    said = []
    for flags in (one_cycle, ("--model.scheduler=null",)):
        find_lr(*flags, "--min_lr=1e-4", "--max_lr=0.1", "--steps=60")
        said.append(re.findall("suggestion .*", capsys.readouterr().out))
    assert said[0] == said[1] != []


@pytest.mark.slow
def test_cached_features_give_the_same_suggestion(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cache = ("--feature_cache=callbacks.feature_cache.FeatureCache", f"--feature_cache.folder={tmp_path / 'features'}")
    network = (
        "--model.network=models.resnet.ResNet",
        "--model.network.channels=[4, 8]",
        "--model.network.blocks=[1, 1]",
    )
    said = []
    for more in ((), cache):
        find_lr(*network, "--model.freeze=[backbone]", "--min_lr=1e-4", "--steps=120", *more)
        out = capsys.readouterr().out
        assert ("Training the head on features" in out) == bool(more)
        said.append(re.findall("suggestion .*", out))
    assert said[0] == said[1] != []


@pytest.mark.slow
def test_a_whitened_layer_is_whitened(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whitened: list[int] = []

    def note(images: Tensor, size: tuple[int, int], number: int) -> Tensor:
        whitened.append(number)
        return whitening_kernels(images, size, number)

    monkeypatch.setattr("callbacks.whitening.whitening_kernels", note)
    network = ("--model.network=models.airbench.AirbenchNet", "--model.network.channels=[8]")
    for callbacks in ("[{class_path: callbacks.whitening.Whitening}]", "[]"):
        find_lr(*network, "--model.freeze=[whitening]", "--steps=60", "--min_lr=1e-4", "--trainer.callbacks", callbacks)
        assert "suggestion " in capsys.readouterr().out
        assert whitened == [8]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--min_lr=1e4", "--max_lr=1e5", "--model.optimizer=torch.optim.SGD"], "falls at no learning rate"),
        (["--min_lr=1e-9", "--max_lr=1e-8", "--steps=30"], "falls at no learning rate"),
        (["--min_lr=1", "--max_lr=0.1"], "--min_lr is 1 and --max_lr 0.1; give positive numbers, the second larger."),
        (["--steps=3"], "--steps is 3; give a whole number of at least 30."),
        (["--data.batch_size=0"], "data.batch_size is 0"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(refused_test: Callable[..., str], flags: list[str], words: str) -> None:
    assert words in refused_test(*flags)


def test_an_unwritable_picture_is_named_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--output", str(tmp_path / "none" / "lr.png"), "--data.root", str(tmp_path / "nowhere")])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "choose another file with --output" in said.err
