"""The image files that a command line names."""

import os
import sys
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from core.names import escape_name
from core.user_error import UserError
from datamodules.decoding.find_files import files_under, images_among, is_junk
from datamodules.packing.left_out import files_besides, summary

STANDARD_INPUT = "-"


def input_images(paths: Sequence[str], lists: Sequence[str] = ()) -> list[str]:
    """Find the images, in the order in which they were asked for; a line on standard error says what is left out."""
    images = [name for path in paths for name in (_names_in_list if path == STANDARD_INPUT else _images_of)(path)]
    images += [name for list_ in lists for name in _names_in_list(list_)]
    if not images:
        raise UserError("No images are given; name files, folders or globs, or a list with --list.")
    return images


def _images_of(path: str) -> list[str]:
    is_folder = Path(path).is_dir()
    if os.path.lexists(path) and not is_folder:
        return [path]
    if not is_folder and not has_magic(path):
        raise UserError(f"There is no {path}; name image files, folders of them, or globs.")
    files, asked_for = set[str](), Path(path).parts
    for match in map(Path, [path] if is_folder else glob(path, recursive=True)):  # noqa: PTH207 - as the user writes it
        if any(is_junk(part) and part not in asked_for for part in match.parts):
            continue
        try:
            files |= {entry.path for entry in files_under(match)} if match.is_dir() else {str(match)}
        except OSError as error:
            raise UserError(
                f"The folder {error.filename} cannot be read: {error.strerror}; see to that, or name others."
            ) from error
    if not (images := sorted(images_among(list(files)))):
        raise UserError(f"{path} has no images; name image files, folders of them, or globs.")
    if is_folder:
        known = {os.path.relpath(image, path) for image in images}
        if left_out := summary(files_besides(known, Path(path)), Path(path)):
            print(f"left out of {escape_name(path)}: {left_out}", file=sys.stderr)
    return images


def _names_in_list(list_: str) -> list[str]:
    try:
        content = sys.stdin.buffer.read() if list_ == STANDARD_INPUT else Path(list_).read_bytes()
    except OSError as error:
        raise UserError(
            f"The list {list_} cannot be read: {error.strerror}; give a text file that names an image on each line."
        ) from error
    content = content.removeprefix(b"\xef\xbb\xbf")  # editors on Windows begin a text with it
    lines = content.split(b"\0") if b"\0" in content else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    if names := [os.fsdecode(line) for line in lines if line.strip()]:
        return names
    raise UserError(f"The list {list_} names no image; expected a path on each line.")
