"""The type of a path in a signature: Python may give text, and the command line makes a Path of it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    AnyPath = Path | str
else:
    AnyPath = Path
