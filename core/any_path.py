"""The type of a path argument: a Path or a str from Python, always a Path from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    AnyPath = Path | str
else:
    AnyPath = Path  # jsonargparse parses the flag as this type
