"""How far a long piece of work is."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0  # how often a line is written where there is no terminal to draw a bar on


@contextmanager
def progress(title: str, total: int, *, aside: bool = False) -> Iterator[Callable[..., None]]:
    """Show what is done and the time left; call the result with the number of images that have been done.

    It is a bar on a terminal, else a line every half minute; `aside`, on standard error.
    """
    console = Console(stderr=True) if aside else get_console()
    if console.is_terminal:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # What is printed meanwhile appears above the bar, if both are on the terminal.
        with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as bar:
            yield partial(bar.advance, bar.add_task(title, total=total))
        return
    start = said = time.monotonic()
    done = 0

    def advance(number: int = 1) -> None:
        nonlocal done, said
        done += number
        if (now := time.monotonic()) >= said + SECONDS_BETWEEN_LINES:
            said = now
            left = timedelta(seconds=round((total - done) / max(done, 1) * (now - start)))
            print(f"{title}  {done:,}/{total:,}  {left} left", file=sys.stderr if aside else sys.stdout, flush=True)

    yield advance
