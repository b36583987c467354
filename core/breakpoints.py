"""Breakpoints in a network."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def skipping_breakpoints() -> Iterator[None]:
    """Pass by every `breakpoint()`, while a network sees an image that is none of the data's."""
    before, sys.breakpointhook = sys.breakpointhook, lambda *args, **kwargs: None
    try:
        yield
    finally:
        sys.breakpointhook = before
