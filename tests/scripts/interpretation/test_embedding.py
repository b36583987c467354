from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from core.user_error import UserError
from scripts.inference.trained_network import TrainedNetwork
from scripts.interpretation.embedding import embedding_picture, features_of, t_sne, write_projector
from tests.conftest import Run


@pytest.mark.slow
def test_features_are_what_the_last_layer_gets(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=1")
    trained = TrainedNetwork(run.best)
    data = trained.data()
    assert data.pack is not None
    images, _ = data.pack[torch.arange(5)]
    layer, features = features_of(trained, images, 2)
    assert layer is not None
    with torch.no_grad():
        logits = trained.network(trained.normalize(images))
        torch.testing.assert_close(trained.network.get_submodule(layer)(features.to(trained.device)), logits)
    trained.network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()).to(trained.device).eval()
    with torch.no_grad():
        logits = trained.network(trained.normalize(images))
    layer, features = features_of(trained, images, 5)
    assert layer is None
    assert torch.equal(features, logits.cpu())


def test_groups_stay_together_and_the_layout_is_the_same_again() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    features = (random.normal(0, 0.1, (60, 16)) + 10 * np.eye(16)[labels]).astype(np.float32)
    places = t_sne(features)
    assert np.array_equal(places, t_sne(features))
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(60)
    assert (labels[distances.argmin(axis=1)] == labels).all()


@pytest.mark.parametrize("images", [4, 5])
def test_few_images_and_such_as_are_all_the_same(images: int) -> None:
    assert t_sne(np.ones((images, 3), np.float32)).shape == (images, 2)
    with pytest.raises(UserError, match="needs at least 4"):
        t_sne(np.ones((3, 3), np.float32))


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_any_number_of_classes_is_drawn(classes: int) -> None:
    places = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    names = [f"class\n{number}" for number in range(classes)]
    picture = embedding_picture(places, np.arange(400) % classes, names, "title")
    assert len(picture.getcolors(1 << 20) or []) > classes


def test_the_projector_has_a_row_and_a_picture_for_each_image(tmp_path: Path) -> None:
    folder = tmp_path / "projector"
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    for number in (3, 6):
        write_projector(folder, torch.rand(number, 4), torch.arange(number) % 2, ["a", "b\tc"], images[:number])
    (config,) = tmp_path.rglob("projector_config.pbtxt")
    (place,) = (file.parent for file in tmp_path.rglob("tensors.tsv"))
    assert len((place / "tensors.tsv").read_text().splitlines()) == 6
    assert (place / "metadata.tsv").read_text().splitlines() == ["a", "b\\tc"] * 3
    assert (place / "sprite.png").is_file()
    assert config.read_text().count("sprite.png") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["projector"]
