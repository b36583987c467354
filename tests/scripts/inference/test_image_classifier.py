import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from core.user_error import UserError
from datamodules.decoding.image_file import UnreadableImageError
from scripts.inference.image_classifier import ImageClassifier, Prediction, load_classifier
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from tests.conftest import Run

SCANS = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
PHOTO = load_sample_image("china.jpg")
SHORT = ("--trainer.max_epochs=1",)


def probabilities(predictions: list[Prediction]) -> list[list[float]]:
    return [list(prediction.probabilities.values()) for prediction in predictions]


def write_photos(folder: Path, number: int = 120) -> Path:
    """Real scans, enlarged to photographs of several shapes, in two classes."""
    for place in range(number):
        file = folder / ("test" if place % 4 == 0 else "train") / ("even", "odd")[place % 2] / f"{place:03}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SCANS[place]).resize((40 + place, 60)).convert("RGB").save(file)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_checkpoint_alone_gives_to_the_last_digit_what_an_evaluation_gives(
    train: Callable[..., Run], tmp_path: Path, precision: str
) -> None:
    photos = write_photos(tmp_path / "photos")
    folder_data = ("--data=datamodules.image_folder.ImageFolder", f"--data.folder={photos}", "--data.image_size=24")
    run = train(*SHORT, *folder_data, "--trainer.precision", precision, "--data.batch_size=7")
    trained = TrainedNetwork(run.best)
    expected = predict_split(trained, trained.data(), "test")

    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(run.best.read_bytes())
    paths = [str(photos / name) for name in expected.names]
    classifier = load_classifier(alone)
    found = classifier(paths)
    assert isinstance(found, list)
    assert np.array_equal(np.stack([each.logits for each in found]), expected.logits)
    assert np.array_equal(probabilities(found), expected.probabilities)
    assert [each.class_name for each in found] == [classifier.class_names[label] for label in expected.classes]


@pytest.fixture
def classifier(train: Callable[..., Run]) -> ImageClassifier:
    return load_classifier(train(*SHORT, "--trainer.precision=32-true").folder)


@pytest.mark.slow
def test_an_image_is_the_same_however_it_comes(classifier: ImageClassifier, tmp_path: Path) -> None:
    file = tmp_path / "digit.png"
    Image.fromarray(SCANS[3]).save(file)
    expected = classifier(str(file))
    assert isinstance(expected, Prediction)
    assert expected.probability == max(expected.probabilities.values()) == expected.probabilities[expected.class_name]
    assert list(expected.probabilities) == classifier.class_names
    assert sum(expected.probabilities.values()) == pytest.approx(1)
    scan = SCANS[3]
    tensor = torch.from_numpy(scan)[None]
    with Image.open(file) as opened:
        opened.load()
    forms = [file, opened, scan, scan[..., None], np.stack([scan] * 3, axis=-1), tensor, tensor.expand(3, 8, 8)]
    for form in forms:
        found = classifier(form)
        assert isinstance(found, Prediction)
        assert np.array_equal(found.logits, expected.logits), type(form)
    together = classifier(forms)
    assert isinstance(together, list)
    assert probabilities(together) == pytest.approx(np.array(probabilities([expected] * len(forms))), abs=1e-6)
    batch = classifier(torch.from_numpy(SCANS[:130, None]))
    assert isinstance(batch, list)
    assert len(batch) == 130, "more than a batch"
    assert probabilities(batch[3:4])[0] == pytest.approx(list(expected.probabilities.values()), abs=1e-6)
    assert probabilities(classifier(list(SCANS[:130]))) == probabilities(batch)  # type: ignore[arg-type]
    assert classifier([]) == []


@pytest.mark.slow
def test_images_of_any_size_and_mode_are_brought_to_that_of_the_run(
    classifier: ImageClassifier, tmp_path: Path
) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        image = Image.fromarray(PHOTO).convert("L" if mode == "I;16" else mode)
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
        file = tmp_path / f"photo-{mode[0]}.{'jpg' if mode == 'CMYK' else 'png'}"
        image.save(file)
        with Image.open(file) as opened:
            assert torch.equal(classifier.pixels(file), classifier.pixels(opened))
        if mode != "CMYK":  # which JPEG changes
            assert torch.equal(classifier.pixels(file), classifier.pixels(image))
    photo = torch.from_numpy(PHOTO.copy()).permute(2, 0, 1)
    assert torch.equal(classifier.pixels(photo), classifier.pixels(PHOTO))
    assert torch.equal(classifier.pixels(Image.fromarray(PHOTO)), classifier.pixels(PHOTO))


def test_an_opened_photograph_gives_what_its_file_gives_and_stays_as_large_as_it_was(
    classifier: ImageClassifier, tmp_path: Path
) -> None:
    file = tmp_path / "photo.jpg"
    Image.fromarray(PHOTO).save(file)
    expected = classifier.pixels(file)
    with Image.open(file) as opened:
        assert torch.equal(classifier.pixels(opened), expected)
        assert opened.size == (PHOTO.shape[1], PHOTO.shape[0])
        assert np.asarray(opened).shape == PHOTO.shape
    with Image.open(io.BytesIO(file.read_bytes())) as opened:
        assert torch.equal(classifier.pixels(opened), expected)


def test_what_is_no_image_is_refused(classifier: ImageClassifier, tmp_path: Path) -> None:
    (tmp_path / "two\nlines.png").write_text("text")
    with pytest.raises(UnreadableImageError, match=r"two\\nlines\.png: it is no image"):
        classifier([tmp_path / "two\nlines.png"])
    truncated = io.BytesIO()
    Image.fromarray(PHOTO).save(truncated, "JPEG")
    half = io.BytesIO(truncated.getvalue()[:20_000])
    with Image.open(half) as opened, pytest.raises(UnreadableImageError, match="truncated"):
        classifier(opened)
    for nothing in (None, 3, SCANS[0].astype(float), torch.zeros(1, 1, 8, 8), np.zeros((8, 8, 5), np.uint8)):
        with pytest.raises(UserError, match=r"is no image: give a path, a Pillow image"):
            classifier(nothing)  # type: ignore[arg-type]


@pytest.mark.slow
def test_channels_that_no_photograph_has_come_as_arrays(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(*SHORT)
    checkpoint = torch.load(run.best, weights_only=True)
    checkpoint["preprocessing"] |= {"channels": 2, "mean": [0.5, 0.5], "std": [1.0, 1.0]}
    weight = next(name for name, value in checkpoint["state_dict"].items() if value.ndim == 4)
    checkpoint["state_dict"][weight] = checkpoint["state_dict"][weight].repeat(1, 2, 1, 1)
    checkpoint["hyper_parameters"]["network"]["init_args"]["in_channels"] = 2
    torch.save(checkpoint, tmp_path / "two.ckpt")
    classifier = load_classifier(tmp_path / "two.ckpt")
    array = np.stack([SCANS[0], SCANS[1]], axis=-1)
    found = classifier(array)
    assert isinstance(found, Prediction)
    of_tensor = classifier(torch.from_numpy(array).permute(2, 0, 1))
    assert isinstance(of_tensor, Prediction)
    assert np.array_equal(of_tensor.logits, found.logits)
    np.save(tmp_path / "x.npy", array)
    of_file = classifier(tmp_path / "x.npy")
    assert isinstance(of_file, Prediction)
    assert np.array_equal(of_file.logits, found.logits)
    Image.fromarray(PHOTO).save(tmp_path / "x.png")
    with pytest.raises(UnreadableImageError, match=r"x\.png: it has 3 channels, where 2 are read"):
        classifier(tmp_path / "x.png")
