"""How far a long piece of work is."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 30.0  # how often a line is written where there is no terminal to draw a bar on


class RateColumn(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """The rate, once it is known."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def progress(title: str, total: int, *, aside: bool = False) -> Iterator[Callable[..., None]]:
    """Show the rate and the time left; call the result with the number of images that have been done.

    It is a bar on a terminal, else a line every half minute; `aside`, on standard error.
    """
    console = Console(stderr=True) if aside else get_console()
    if console.is_terminal:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
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
            rate = max(done, 1) / (now - start)
            left = timedelta(seconds=round((total - done) / rate))
            line = f"{title}  {done:,}/{total:,}  {rate:,.0f}/s  {left} left"
            print(line, file=sys.stderr if aside else sys.stdout, flush=True)

    yield advance
