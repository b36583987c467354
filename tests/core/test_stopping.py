import os
import signal

import pytest

from core.stopping import EXIT_STATUS, Stopped, heeded, heeding_signals


@pytest.mark.parametrize("number", EXIT_STATUS)
def test_a_signal_ends_the_process_with_its_status_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in EXIT_STATUS}
    with pytest.raises(Stopped) as stopped, heeding_signals():
        os.kill(os.getpid(), number)
    assert stopped.value.code == EXIT_STATUS[number]
    assert not stopped.value.in_order
    assert {each: signal.getsignal(each) for each in EXIT_STATUS} == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in heeded()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGTERM in heeded()
