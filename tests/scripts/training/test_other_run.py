from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--resume",), "There is no run in {runs}/digits-convnet to go on with"),
        (("--resume", "{runs}"), "{runs} is no folder of a run: it has no config.yaml"),
        (("--resume", "--ckpt_path", "last.ckpt"), "give one of them"),
        (("--resume", "--data.fold", "1"), "A run that goes on keeps its fold, because it was trained on the others"),
    ],
)
def test_says_what_cannot_be_gone_on_with(
    refused: Callable[..., str], tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    runs = str(tmp_path / "runs")
    error = refused("fit", "--runs", runs, *(flag.format(runs=runs) for flag in flags))
    assert words.format(runs=runs) in error
