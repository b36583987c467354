"""The file that a command is to write."""

from pathlib import Path
from tempfile import TemporaryFile

from lightning.fabric.utilities.exceptions import MisconfigurationException


def refuse_output(output: Path, overwrite: bool) -> None:
    """See that a file can be written."""
    if output.exists() and not overwrite:
        raise MisconfigurationException(f"{output} is there already; replace it with --overwrite, or give --output.")
    try:
        if output.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise MisconfigurationException(
            f"{output} cannot be written: {error.strerror or error}; choose another file with --output."
        ) from error
