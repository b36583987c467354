from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow
from sklearn.datasets import load_digits

from core.user_error import UserError
from scripts.inference.trained_network import TrainedNetwork
from scripts.visualize import COMMANDS, main, read_image
from tests.conftest import Done, Run
from tests.datamodules.test_image_folder import write_scans

PICTURED = ("activations", "filters", "gradcam", "saliency", "occlusion", "embedding")


@pytest.fixture
def visualize(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


def asked(command: str) -> list[str]:
    """The least that a command wants to know."""
    wants_image = command in ("activations", "gradcam", "saliency", "occlusion")
    layer = ["--layer", "stages.4"] if command == "activations" else []
    return [command, *(["--image", "train[17]"] if wants_image else []), *layer]


@pytest.mark.slow
def test_every_command_draws_its_picture(
    train: Callable[..., Run], visualize: Callable[..., Done], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1")
    assert {*PICTURED, "architecture"} == set(COMMANDS)
    drawn = set()
    for command in PICTURED:
        file = tmp_path / f"{command}.png"
        status, out, error = visualize(run.folder, *asked(command), "--output", file)
        assert (status, error) == (0, "")
        assert out.splitlines()[-1] == f"picture     {file}"
        with Image.open(file) as picture:
            picture.load()
        drawn.add(file.read_bytes())
    assert len(drawn) == len(PICTURED)
    assert list((run.folder / "projector").rglob("projector_config.pbtxt"))


@pytest.mark.slow
def test_a_picture_goes_into_the_folder_of_the_run(train: Callable[..., Run], visualize: Callable[..., Done]) -> None:
    run = train("--trainer.max_epochs=1")
    assert visualize(run.best, "filters")[1] == f"picture     {run.folder / 'filters.png'}\n"
    assert (run.folder / "filters.png").is_file()


@pytest.mark.slow
def test_layers_are_listed_and_told(train: Callable[..., Run], visualize: Callable[..., Done]) -> None:
    run = train("--trainer.max_epochs=1")
    status, out, _ = visualize(run.best, "activations", "--image", "train[0]")
    assert status == 0
    assert "stages.0" in out
    assert "Conv2d" in out
    assert "32x8x8" in out
    status, out, _ = visualize(run.best, "architecture")
    assert status == 0
    assert f"{run.results['parameters']:,}" in out


@pytest.mark.slow
def test_another_class_and_layer_are_another_picture(
    train: Callable[..., Run], visualize: Callable[..., Done], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1")
    pictures = []
    for flags in ((), ("--class", "3"), ("--class", "8"), ("--layer", "stages.0")):
        file = tmp_path / "x.png"
        assert visualize(run.best, *asked("gradcam"), *flags, "--output", file)[0] == 0
        pictures.append(file.read_bytes())
    assert len(set(pictures)) >= 3


@pytest.mark.slow
def test_a_network_without_convolutions(
    train: Callable[..., Run], visualize: Callable[..., Done], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1", "--model.network=models.mlp.MLP")
    for command, expected in (("gradcam", "use saliency or occlusion"), ("filters", "has no convolution")):
        status, _, error = visualize(run.best, *asked(command), "--output", tmp_path / "x.png")
        assert status == 2
        assert expected in error
    for command in ("saliency", "occlusion", "embedding"):
        assert visualize(run.best, *asked(command), "--output", tmp_path / "x.png")[0] == 0


@pytest.mark.slow
def test_mistakes_are_told_in_one_sentence(
    train: Callable[..., Run], visualize: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train("--trainer.max_epochs=1")
    before = sorted(tmp_path.rglob("*"))
    image = ("--image", "train[0]")
    for args, expected in (
        ((tmp_path / "none.ckpt", "filters"), "There is no checkpoint"),
        ((run.best, "activations", *image, "--layer", "stages.00"), "did you mean stages.0"),
        ((run.best, "filters", "--layer", "stages.1"), "has no convolution stages.1; did you mean stages.4"),
        ((run.best, "gradcam", *image, "--layer", "head.1"), "no maps; give Grad-CAM a convolution"),
        ((run.best, "gradcam", *image, "--class", "eleven"), "--class is eleven"),
        ((run.best, "saliency", "--image", tmp_path / "x.png"), "the file is not there"),
        ((run.best, "embedding", "--data.test_size=2"), "t-SNE needs at least 4"),
        ((run.best, "filters", "--output", tmp_path / "none" / "x.png"), "cannot be written"),
        ((run.best, "filters", "--tiles=0"), "'0' is no whole number of at least 1"),
        ((run.best, "filters", "--layr=0"), "filters knows no --layr=0"),
        ((run.best, "saliency", *image, "--data.rot=1"), "rot"),
    ):
        status, _, error = visualize(*args)
        assert status == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert expected in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_shows_the_picture_that_it_has_written(
    train: Callable[..., Run], visualize: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("--trainer.max_epochs=1")
    shown: list[Image.Image] = []
    file = tmp_path / "x.png"

    def show(picture: Image.Image) -> bool:
        shown.append(picture)
        return True

    monkeypatch.setattr(ImageShow, "show", show)
    assert visualize(run.best, "filters", "--output", file, "--show")[0] == 0
    with Image.open(file) as written:
        assert written.convert("RGB") == shown[0]
    monkeypatch.setattr(ImageShow, "show", lambda picture: False)
    status, _, error = visualize(run.best, "filters", "--output", file, "--show")
    assert status == 2
    assert "No program to show pictures" in error


@pytest.mark.slow
def test_a_file_and_an_image_of_the_data(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train("--trainer.max_epochs=1")
    trained = TrainedNetwork(run.best)
    pixels = np.rint(load_digits().images[17] * (255 / 16)).astype(np.uint8)
    file = tmp_path / "digit.png"
    Image.fromarray(pixels).save(file)
    from_file = read_image(str(file), trained)
    assert torch.equal(from_file, torch.from_numpy(pixels)[None, None])
    assert torch.equal(read_image("train[17]", trained), from_file)

    data = trained.data()
    expected, _ = data.transform((from_file, torch.zeros(1)), training=False)
    assert torch.equal(trained.normalize(from_file).cpu(), expected)


@pytest.mark.slow
def test_an_image_is_found_as_the_evaluation_names_it(
    train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.png")
    flags = ("--data=datamodules.image_folder.ImageFolder", "--data.image_size=8", "--data.folder", str(folder))
    trained = TrainedNetwork(train("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", *flags).best)
    monkeypatch.chdir(tmp_path)
    data = trained.data()
    assert data.pack is not None
    name = data.pack.name(int(data.splits["test"][0]))
    assert torch.equal(read_image(name, trained), read_image(str(folder / name), trained))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="the file is not there"):
        read_image(name, trained)
    assert torch.equal(read_image(name, trained, ["--data.folder", str(moved)]), read_image(str(moved / name), trained))


@pytest.mark.slow
def test_images_that_are_not_there_or_cannot_be_read_are_refused(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train("--trainer.max_epochs=1")
    trained = TrainedNetwork(run.best)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    for name, expected in (
        (str(tmp_path / "none.png"), "the file is not there"),
        (str(tmp_path / "empty.png"), "the file is empty"),
        (str(tmp_path / "text.png"), "it is no image"),
        (str(tmp_path), "Is a directory"),
        ("train[1797]", "the source has 1,797 images in train; give a smaller number"),
        ("val[0]", "the source has 0 images in val"),
    ):
        with pytest.raises(UserError, match=expected):
            read_image(name, trained)
    trained.shape = (5, *trained.shape[1:])
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match="it has 1 channels, where 5 are read; give an image file"):
        read_image(str(tmp_path / "grey.png"), trained)
