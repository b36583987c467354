"""The argument --output."""

from pathlib import Path
from tempfile import TemporaryFile

from core.user_error import UserError


def check_output(output: Path, overwrite: bool, flag: str = "--output") -> None:
    """Check that a file can be written."""
    if output.exists() and not overwrite:
        raise UserError(f"{output} is there already; replace it with --overwrite, or give {flag}.")
    try:
        if output.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{output} cannot be written: {error.strerror or error}; choose another file with {flag}."
        ) from error
