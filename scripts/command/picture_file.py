"""Pictures as files and on the screen."""

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageShow

from core.durable_file import replacing
from core.user_error import UserError
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output


def picture_file(name: str) -> Path:
    """Check that a picture can be written to a file, and return its path; the file is not changed."""
    path = to_path(name)
    try:
        Image.new("RGB", (1, 1)).save(BytesIO(), _format(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--output is {path}, but no colour picture can be written in a format of that name; "
            "give a name that ends in .png or .jpg."
        ) from error
    if path.parent == Path("runs"):  # which may be the first
        path.parent.mkdir(exist_ok=True)
    check_output(path, overwrite=True)
    return path


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all."""
    try:
        with replacing(path) as part:
            picture.save(part, _format(path))
    except OSError as error:
        raise UserError(
            f"The picture cannot be written to {path}: {error.strerror or error}; choose another file with --output."
        ) from error


def _format(path: Path) -> str:
    return Image.registered_extensions()[path.suffix.lower()]


def show_picture(picture: Image.Image, path: Path) -> None:
    """Open a picture in a window."""
    if not ImageShow.show(picture):
        raise UserError(f"There is no program to show pictures with; open {path} elsewhere.")
