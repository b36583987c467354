"""The type of a path argument: `Path` for the command line, which converts text; `Path | str` for type checkers."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    AnyPath = Path | str
else:
    AnyPath = Path  # jsonargparse parses the flag as this type
