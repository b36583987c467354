"""A progress display for long work on images."""

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

SECONDS_BETWEEN_LINES = 30.0  # without a terminal, a line is printed this often


class RateColumn(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing while it is unknown."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def progress(title: str, total: int, *, aside: bool = False) -> Iterator[Callable[..., None]]:
    """Show the rate and the remaining time; yield a function to call with the number of images just processed.

    On a terminal this is a bar, otherwise a line every half minute. `aside` writes to standard error.
    """
    console = Console(stderr=True) if aside else get_console()
    if console.is_terminal:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
        # Other output appears above the bar if both are on the terminal.
        with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as bar:
            yield partial(bar.advance, bar.add_task(title, total=total))
        return
    start = last_line = time.monotonic()
    images_done = 0

    def advance(number: int = 1) -> None:
        nonlocal images_done, last_line
        images_done += number
        seconds = time.monotonic() - start
        if start + seconds >= last_line + SECONDS_BETWEEN_LINES:
            last_line = start + seconds
            rate = max(images_done, 1) / seconds
            remaining = timedelta(seconds=round((total - images_done) / rate))
            line = f"{title}  {images_done:,}/{total:,}  {rate:,.0f}/s  {remaining} left"
            print(line, file=sys.stderr if aside else sys.stdout, flush=True)

    yield advance
