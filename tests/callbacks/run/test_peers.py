import os
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks.run import peers
from callbacks.run.peers import LOST, PeerError, come_together, open_store
from callbacks.run.run_folder import release_folders
from core.stopping import Stopped, exit_on_signals


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    """Leaves no store open, and nobody waiting."""
    yield
    release_folders()
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
    with exit_on_signals(), pytest.raises(Stopped):
        come_together(nobody)
    assert peers._waiting[-1].is_alive(), "torch has not given up yet"


def test_others_that_do_not_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(PeerError, match=r"have not come together within .* minutes; see what the others say"):
        come_together(nobody)


def test_a_first_process_that_ends_is_not_waited_for() -> None:
    port = open_store("localhost", 0, is_first=True).port
    client = TCPStore("localhost", port, is_master=False)
    threading.Timer(0.3, release_folders).start()
    with pytest.raises(PeerError, match=LOST):
        come_together(lambda: client.get("never told"))
