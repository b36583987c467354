import sys

import pytest

from core.breakpoints import skipping_breakpoints


def test_a_breakpoint_is_passed_by_inside_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[str] = []
    monkeypatch.setattr(sys, "breakpointhook", stops.append)
    with skipping_breakpoints():
        sys.breakpointhook("inside")
    sys.breakpointhook("outside")
    assert stops == ["outside"]
