from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.user_error import UserError
from datamodules.batching.randomness import random_key
from datamodules.batching.stratified import stratified_split
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import BATCH_SIZE, TrainedNetwork, check_same_classes
from scripts.uncertainty.calibration import cross_entropy
from tests.conftest import Run
from tests.datamodules.test_image_folder import SCANS, write_scans

SHORT = ("--trainer.max_epochs=1",)


@pytest.mark.slow
def test_a_run_is_enough(train: Callable[..., Run]) -> None:
    run = train(*SHORT)
    trained = TrainedNetwork(run.folder)
    assert (trained.path, trained.folder) == (run.best, run.folder)
    data = trained.data()
    assert not trained.network.training
    assert data.preprocessing == trained.preprocessing


@pytest.mark.slow
def test_normalises_as_the_network_is_used_to_whatever_the_data(train: Callable[..., Run]) -> None:
    run = train(*SHORT)
    trained = TrainedNetwork(run.best)
    data = trained.data(["--data.limit", "0.5", "--data.split_seed", "3"])
    assert len(data.splits["test"]) < 200
    assert data.mean == trained.preprocessing["mean"]


@pytest.mark.slow
def test_says_in_how_far_the_data_are_not_those_of_training(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.png")
    folders = ("--data=datamodules.image_folder.ImageFolder", "--data.root", str(tmp_path), "--data.image_size=8")
    run = train(*folders, *SHORT)
    trained = TrainedNetwork(run.best)
    capsys.readouterr()
    trained.data()
    assert capsys.readouterr().out == ""
    Image.fromarray(SCANS[60]).save(folder / "class 0" / "00.png")
    (folder / "class 1" / "1.png").unlink()
    data = trained.data()
    val, test = (len(data.splits[split]) for split in ("val", "test"))
    expected = f"1 new, 1 gone; trained on: 0 of {val} val and 0 of {test} test images\n"
    assert capsys.readouterr().out.endswith(expected)
    file = folder / data.pack.name(data.splits["train"].tolist()[-1])  # type: ignore[union-attr]
    for number in range(40):
        file = file.rename(file.with_name(f"{number}.renamed.png"))
        data = trained.data()
        if any(data.pack.name(place).endswith(file.name) for place in data.splits["test"].tolist()):  # type: ignore[union-attr]
            break
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"and 1 of {len(data.splits['test'])} test images")


@pytest.mark.slow
def test_a_run_from_before_there_were_two_rules_keeps_its_splits(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(*SHORT, "--data.split_rule", "shuffle")
    expected = TrainedNetwork(run.best).data().splits["test"]
    checkpoint = torch.load(run.best, weights_only=True)
    del checkpoint["data_images"], checkpoint["config"]["data"]["init_args"]["split_rule"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    data = TrainedNetwork(tmp_path / "old.ckpt").data()
    assert torch.equal(data.splits["test"], expected)
    drawn = stratified_split(data.pack.labels, 0.2, random_key(0, 0))  # type: ignore[union-attr]
    assert torch.equal(data.splits["test"], drawn.nonzero()[:, 0])


def test_a_damaged_and_a_missing_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no checkpoint"):
        TrainedNetwork(tmp_path / "none.ckpt")
    (tmp_path / "x.ckpt").write_bytes(b"PK")
    with pytest.raises(UserError, match="truncated or damaged"):
        TrainedNetwork(tmp_path / "x.ckpt")


@pytest.mark.slow
def test_a_network_that_cannot_be_built_again_is_told(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(*SHORT)
    checkpoint = torch.load(run.best, weights_only=True)
    gone = checkpoint["hyper_parameters"] | {"network": {"class_path": "models.gone.Gone"}}
    for changed, told in (
        ({"state_dict": dict(list(checkpoint["state_dict"].items())[1:])}, "Missing key"),
        ({"hyper_parameters": gone}, "models.gone.Gone"),
    ):
        torch.save(checkpoint | changed, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=f"cannot be built again: .*{told}") as error:
            TrainedNetwork(tmp_path / "x.ckpt").network  # noqa: B018
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_data_of_other_classes_or_another_shape_are_refused(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(*SHORT, "--data.classes", "[3,8,5]")
    trained = TrainedNetwork(run.best)
    with pytest.raises(UserError, match=r"and Digits differ in 0, 1, 2, 4, 6, \.\.\.;"):
        trained.data(["--data.classes", "null"])
    with pytest.raises(UserError, match="differ in their order;"):
        trained.data(["--data.classes", "[8,3,5]"])
    trained.shape = (1, 9, 9)
    with pytest.raises(UserError, match=r"has images of \[1, 8, 8\], .* was trained on images of \[1, 9, 9\]"):
        trained.data()


@pytest.mark.slow
def test_a_checkpoint_that_does_not_know_its_data_asks_for_them(
    train: Callable[..., Run], tmp_path: Path, data_root: Path
) -> None:
    run = train(*SHORT)
    checkpoint = torch.load(run.best, weights_only=True)
    del checkpoint["config"]
    file = tmp_path / "bare.ckpt"
    torch.save(checkpoint, file)
    trained = TrainedNetwork(file)
    with pytest.raises(UserError, match="give them with --data"):
        trained.data()
    data = trained.data(["--data", "datamodules.digits.Digits", "--data.root", str(data_root)])
    assert len(data.splits["test"]) == 359
    torch.save(checkpoint | {"config": {"data": {"class_path": "datamodules.digits.Digits", "init_args": None}}}, file)
    assert TrainedNetwork(file).batch_size == BATCH_SIZE


def test_names_the_classes_that_differ() -> None:
    check_same_classes(["a"], ["a"], "x", "y")
    with pytest.raises(UserError, match="of x and y differ in b, c;"):
        check_same_classes(["a", "b"], ["a", "c"], "x", "y")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("bf16-true", torch.bfloat16),
        ("64-true", torch.float64),
    ],
)
def test_computes_in_the_precision_of_the_run(
    train: Callable[..., Run], precision: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    run = train(*SHORT, "--trainer.precision", precision)
    trained = TrainedNetwork(run.best)
    data = trained.data()
    with torch.no_grad(), trained.autocast_context():
        images = torch.zeros(1, 1, 8, 8, device=trained.device)
        logits = trained.network(trained.to_memory_format(images))
    found = predict_split(trained, data, "test")
    assert logits.dtype == dtype
    assert trained.precision == str(dtype).removeprefix("torch.")
    assert torch.get_default_dtype() == torch.float32
    assert run.results["precision"].startswith(precision)
    assert cross_entropy(found.logits, found.labels) == pytest.approx(run.results["metrics"]["test/loss"], rel=1e-6)
    assert all(
        torch.equal(value.cpu(), saved_of(run)[f"network.{name}"])
        for name, value in trained.network.state_dict().items()
    )


def saved_of(run: Run) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run.best, weights_only=True)["state_dict"]
    return weights


@pytest.mark.slow
def test_a_copy_in_float32_leaves_the_network_as_it_is(train: Callable[..., Run]) -> None:
    trained = TrainedNetwork(train(*SHORT, "--trainer.precision", "bf16-true").best)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    before = trained.logits(images)
    exact = trained.in_float32()
    assert (exact.precision, trained.precision) == ("float32", "bfloat16")
    assert not torch.equal(exact.logits(images), before)
    assert torch.equal(trained.logits(images), before)
    torch.testing.assert_close(exact.logits(images), before, atol=0.1, rtol=0.1)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_say_what_it_takes_is_refused(train: Callable[..., Run], tmp_path: Path) -> None:
    checkpoint = torch.load(train(*SHORT).best, weights_only=True)
    torch.save(checkpoint | {"class_names": [], "preprocessing": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match="has no class names or preprocessing"):
        TrainedNetwork(tmp_path / "bare.ckpt")
