from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from core.user_error import UserError
from scripts.inference.shown_image import shown_image
from scripts.inference.trained_network import TrainedNetwork
from tests.conftest import Run
from tests.datamodules.test_image_folder import write_scans


@pytest.mark.slow
def test_a_file_and_an_image_of_the_data(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train("--trainer.max_epochs=1")
    trained = TrainedNetwork(run.best)
    pixels = np.rint(load_digits().images[17] * (255 / 16)).astype(np.uint8)
    file = tmp_path / "digit.png"
    Image.fromarray(pixels).save(file)
    from_file = shown_image(str(file), trained)
    assert torch.equal(from_file, torch.from_numpy(pixels)[None, None])
    assert torch.equal(shown_image("train[17]", trained), from_file)

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
    assert torch.equal(shown_image(name, trained), shown_image(str(folder / name), trained))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="the file is not there"):
        shown_image(name, trained)
    assert torch.equal(
        shown_image(name, trained, ["--data.folder", str(moved)]), shown_image(str(moved / name), trained)
    )


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
        ("train[1797]", "the source has 1,797 in train; give a number"),
        ("val[0]", "the source has 1,797 in train"),
    ):
        with pytest.raises(UserError, match=expected):
            shown_image(name, trained)
    trained.shape = (5, *trained.shape[1:])
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match="it has 1 channels, where 5 are read; give an image file"):
        shown_image(str(tmp_path / "grey.png"), trained)
