import logging
import sys
import threading
import warnings
from logging.handlers import BufferingHandler

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.profilers import SimpleProfiler
from lightning_utilities.core.rank_zero import rank_zero_info

from scripts.command import silence
from scripts.command.silence import EVENT_FILE_WRITER, silence_libraries, silent


def test_keeps_quiet_what_is_known_and_nothing_else() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silence_libraries()
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
        with pytest.raises(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)


def test_what_was_asked_for_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = BufferingHandler(100)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "handlers", [heard])
    silence_libraries()
    rank_zero_info("a tip")
    logging.getLogger("lightning.pytorch.trainer").info("another")
    assert not heard.buffer
    SimpleProfiler().describe()
    timer = Timer(duration={"seconds": 0})
    timer._check_time_remaining(Trainer(logger=False, enable_checkpointing=False))
    profile, time = (record.getMessage() for record in heard.buffer)
    assert "Profiler Report" in profile
    assert "Time limit reached" in time


def test_a_thread_of_tensorboard_that_ends_is_left_to_the_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(silence, "_default_hook", told.append)
    monkeypatch.setattr(threading, "excepthook", None)
    silence_libraries()

    def end(kind: type[threading.Thread]) -> None:
        thread = kind(target=lambda: [].pop())
        thread.start()
        thread.join()

    end(type("Writer", (threading.Thread,), {"__module__": EVENT_FILE_WRITER}))
    assert not told
    end(threading.Thread)
    assert len(told) == 1


def test_within_nothing_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("some.library")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    with silent():
        print("a")
        print("b", file=sys.stderr)
        warnings.warn("c", stacklevel=1)
        logger.critical("d")
    assert capsys.readouterr() == ("", "")
    logger.critical("heard")
    logger.removeHandler(handler)
    assert "heard" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)
