from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.user_error import UserError
from datamodules.base import ImageDataModule
from scripts.command.data_flags import build_data
from scripts.train import main
from tests.discovery import CONFIGS


def test_is_the_data_that_a_run_would_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [
        "--seed_everything=3",
        "--data.val_size=0.3",
        "--data.batch_size=50",
        "--data.root",
        str(tmp_path),
    ]
    flags += ["--config", str(CONFIGS / "digits" / "mlp.yaml")]
    data = build_data(flags)
    assert (data.seed, data.split_plan.val_size, data.batch_size) == (3, 0.3, 50)
    data.prepare_data()
    data.setup("fit")
    seen: list[list[int]] = []
    original = ImageDataModule.train_dataloader

    def spy(self: ImageDataModule) -> Any:
        loader = original(self)
        seen.extend(indices.tolist() for indices in loader.sampler)
        return loader

    monkeypatch.setattr(ImageDataModule, "train_dataloader", spy)
    main(["fit", *flags, "--runs", str(tmp_path), "--trainer.max_epochs=1"])
    assert seen == [indices.tolist() for indices in original(data).sampler]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config", "none.yaml"], "none.yaml cannot be read"),
        (["--data.batch_size", "0"], "data.batch_size is 0"),
        (["--data.batch_sise", "1"], "batch_sise"),
        (["--data", "datamodules.nothing.Nothing"], "Nothing"),
        (["--data", "datamodules.mnist.MNIST", "--data.classes", "[nought, one]"], "data.classes names nought"),
    ],
)
def test_a_mistake_is_one_sentence(flags: Sequence[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        build_data(flags)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
