import os
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks.run import peers
from callbacks.run.peers import LOST, PeerError, come_together, open_store, part, signs_of_life
from core.stopping import Stopped, heeding_signals


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    """Leaves no store open, and nobody waiting."""
    yield
    part()
    for thread in peers._waiting:
        thread.join()


def nobody() -> TCPStore:
    """Waits for a first process that does not come."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return TCPStore("localhost", port, is_master=False, timeout=timedelta(seconds=2))


def test_gives_what_was_waited_for() -> None:
    assert come_together(lambda: open_store("localhost", 0, is_first=True)).port > 0


def test_a_signal_is_heeded_while_others_are_waited_for() -> None:
    sends = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    sends.start()
    with heeding_signals(), pytest.raises(Stopped):
        come_together(nobody)
    assert peers._waiting[-1].is_alive(), "torch has not given up yet"


def test_others_that_do_not_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(PeerError, match=r"have not come together within .* minutes; see what the others say"):
        come_together(nobody)


def test_a_first_process_that_ends_is_not_waited_for() -> None:
    port = open_store("localhost", 0, is_first=True).port
    client = TCPStore("localhost", port, is_master=False)
    threading.Timer(0.3, part).start()
    with pytest.raises(PeerError, match=LOST):
        come_together(lambda: client.get("never told"))


def test_a_process_that_gives_no_sign_of_life_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SILENT_LOOKS", 3)
    port = open_store("localhost", 0, is_first=True).port
    first, second, third = (signs_of_life(open_store("localhost", port, is_first=False), rank, 3) for rank in range(3))
    assert not any(first() for _ in range(9)), "the others have not come yet"
    assert not any(process() for _ in range(9) for process in (second, third, first))
    assert not any(process() for _ in range(3) for process in (second, first)), "the third is a little late"
    assert any(process() for _ in range(3) for process in (second, first))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert not first(), "from here on the group notices"


def test_the_others_notice_that_the_first_process_gives_no_answer() -> None:
    port = open_store("localhost", 0, is_first=True).port
    second = signs_of_life(TCPStore("localhost", port, is_master=False), 1, 2)
    assert not second()
    part()
    assert second()
