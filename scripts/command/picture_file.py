"""Pictures as files and on the screen."""

from pathlib import Path
from tempfile import NamedTemporaryFile

from PIL import Image, ImageShow

from core.user_error import UserError
from scripts.command.expansion import to_path


def picture_file(name: str) -> Path:
    """Check that a picture can be written to a file, and return its path; the file is not changed."""
    path = to_path(name)
    try:
        if path.parent == Path("runs"):  # which may be the first
            path.parent.mkdir(exist_ok=True)
        if path.exists():
            path.open("ab").close()
        with NamedTemporaryFile(dir=path.parent, suffix=path.suffix) as trial:
            Image.new("RGB", (1, 1)).save(trial.name)
    except (OSError, ValueError, KeyError) as error:
        if reason := getattr(error, "strerror", None):
            raise UserError(
                f"The picture cannot be written to {path}: {reason}; choose another file with --output."
            ) from error
        raise UserError(
            f"--output is {path}, but no colour picture can be written in a format of that name; "
            "give a name that ends in .png or .jpg."
        ) from error
    return path


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture."""
    try:
        picture.save(path)
    except OSError as error:
        raise UserError(
            f"The picture cannot be written to {path}: {error.strerror or error}; choose another file with --output."
        ) from error


def show_picture(picture: Image.Image, path: Path) -> None:
    """Open a picture in a window."""
    if not ImageShow.show(picture):
        raise UserError(f"There is no program to show pictures with; open {path} elsewhere.")
