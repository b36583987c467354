"""Check and write the file of --output."""

from pathlib import Path
from tempfile import TemporaryFile

from PIL import Image, ImageShow

from core.durable_file import replacing
from core.user_error import UserError
from scripts.command.expansion import to_path


def check_output(output: Path, overwrite: bool, flag: str = "--output") -> None:
    """Raise UserError if a file cannot be written, or exists and `overwrite` is False."""
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists already; replace it with --overwrite, or give another {flag}.")
    try:
        if output.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{output} cannot be written: {error.strerror or error}; choose another file with {flag}."
        ) from error


def picture_file(name: str) -> Path:
    """Return the path of a picture file; raises UserError if it cannot be written. The file stays unchanged."""
    path = to_path(name)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output is {path}; give a name that ends in .png or .jpg.")
    if path.parent == Path("runs"):  # the default place, before the first run
        path.parent.mkdir(exist_ok=True)
    check_output(path, overwrite=True)
    return path


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically."""
    with replacing(path) as part:
        picture.save(part, Image.registered_extensions()[path.suffix.lower()])


def show_picture(picture: Image.Image, path: Path) -> None:
    """Open a picture in a window."""
    if not ImageShow.show(picture):
        raise UserError(f"No program to show pictures is installed; open {path} elsewhere.")
