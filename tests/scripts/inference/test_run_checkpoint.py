from collections.abc import Callable
from pathlib import Path

import pytest

from core.user_error import UserError
from scripts.inference.run_checkpoint import find_checkpoint, run_of
from tests.conftest import Run

SHORT = ("--trainer.max_epochs=1",)


def test_a_run_has_a_checkpoint_and_a_checkpoint_a_run(train: Callable[..., Run]) -> None:
    run = train(*SHORT)
    assert find_checkpoint(run.folder) == run.best
    assert find_checkpoint(run.last) == run.last
    assert run_of(run.best) == run.folder


@pytest.mark.slow
def test_the_last_checkpoint_where_there_is_no_best(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(*SHORT)
    run.best.unlink()
    (run.folder / "results.json").write_text("[")
    assert find_checkpoint(run.folder) == run.last
    assert run_of(tmp_path / "some" / "x.ckpt") is None
    with pytest.raises(UserError, match="no folder of a run with a checkpoint"):
        find_checkpoint(tmp_path)
