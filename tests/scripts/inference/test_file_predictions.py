from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.inference.file_predictions import predict_files
from scripts.inference.prediction_table import PredictionTable
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from tests.conftest import Run
from tests.scripts.inference.test_image_classifier import write_photos


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_files_have_to_the_last_digit_the_logits_of_an_evaluation(
    train: Callable[..., Run], tmp_path: Path, precision: str
) -> None:
    photos = write_photos(tmp_path / "photos")
    data = ("--data=ImageFolder", f"--data.folder={photos}", "--data.image_size=24", "--data.batch_size=7")
    trained = TrainedNetwork(train("--trainer.max_epochs=1", *data, "--trainer.precision", precision).best)
    expected = predict_split(trained, trained.data(), "test")
    paths = [str(photos / name) for name in expected.names]
    table = PredictionTable(trained.class_names, logits=True)
    names = [f"logit of {name}" for name in trained.class_names]
    for workers, begun in ((0, 0), (2, 0), (2, 3)):
        batches = list(predict_files(trained, paths, table, num_workers=workers, begun=begun))
        rows = [row for batch in batches for row in batch]
        assert [row["path"] for row in rows] == paths[7 * begun :]
        found = np.array([[row[name] for name in names] for row in rows], np.float32)
        assert np.array_equal(found, expected.logits[7 * begun :])
        assert {row["error"] for row in rows} == {None}
