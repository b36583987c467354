"""A start looks at the folders of a large source; each of its files is looked at beside training."""

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from hashlib import sha256
from json import dumps
from pathlib import Path
from threading import Thread

from core.durable_file import replace_file
from core.plain_data import read_json
from core.user_error import UserError

MANY_FILES = 20_000  # every start looks at fewer files, in a fraction of a second


class RememberedTimes:
    """Fingerprints of large folders from earlier starts, which hold while no folder within has another time.

    A file that is added, removed, renamed or replaced changes the times of its folder. A file that is written in place
    does not: all files are looked at beside training, and `check_unchanged` reports it. The fingerprints are
    kept in the folder `store`.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._look: Callable[[], str]
        self._seen = ""
        self._recalled: list[Path] = []
        self._thread: Thread | None = None
        self._is_changed = False

    def recalling(self, look: Callable[[], str]) -> str:
        """Call a function within which `fingerprint_files` gives what is remembered."""
        context = copy_context()
        context.run(MEMORY.set, self)
        self._look, self._seen = look, context.run(look)
        return self._seen

    def fingerprint(self, folder: Path, only: tuple[str, ...] | None) -> str:
        """The fingerprint of a folder as it is remembered, or else by looking at its files."""
        from datamodules.decoding.image_files import look_through, times_of

        name = sha256(os.fsencode("\0".join((str(folder.resolve()), *(only or ()))))).hexdigest()[:12]
        file = self._store / f".{name}.times"
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # nothing is remembered, or damaged
            facts = read_json(file)
            if all(times_of((folder / within).stat()) == times for within, times in facts["folders"].items()):
                fingerprint = str(facts["fingerprint"])
                self._recalled.append(file)
                return fingerprint
        fingerprint, folders, files = look_through(folder, only)
        if files >= MANY_FILES:
            with suppress(OSError):  # where nothing can be written, nothing is remembered
                self._store.mkdir(parents=True, exist_ok=True)
                replace_file(file, dumps({"fingerprint": fingerprint, "folders": folders}))
        return fingerprint

    def look_at_all(self) -> None:
        """Begin to look at all files, if a fingerprint was remembered."""
        if self._recalled:
            self._thread = Thread(target=self._compare, daemon=True)
            self._thread.start()

    def _compare(self) -> None:
        with suppress(OSError):  # such as a folder that is gone
            if self._look() == self._seen:
                return
        self._is_changed = True
        for file in self._recalled:
            with suppress(OSError):
                file.unlink(missing_ok=True)

    def check_unchanged(self) -> None:
        """Wait until all files have been looked at, and refuse to go on if one has changed."""
        if self._thread is not None:
            self._thread.join()
        if self._is_changed:
            raise UserError(
                "A file of the data set has been written to since it was read; start again, and it is read anew."
            )


MEMORY: ContextVar[RememberedTimes | None] = ContextVar("MEMORY", default=None)  # what `fingerprint_files` asks
