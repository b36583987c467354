"""Find the image files that a command line names."""

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
    """Return the images in the order of the command line; report files that are left out on standard error."""
    images = list[str]()
    for path in paths:
        images += _listed_in(path) if path == STANDARD_INPUT else _images_at(path)
    for list_file in lists:
        images += _listed_in(list_file)
    if not images:
        raise UserError("No images are given; name files, folders or globs, or a list with --list.")
    return images


def _images_at(path: str) -> list[str]:
    is_folder = Path(path).is_dir()
    if os.path.lexists(path) and not is_folder:
        return [path]
    if not is_folder and not has_magic(path):
        raise UserError(f"There is no {path}; name image files, folders of them, or globs.")
    files, path_parts = set[str](), Path(path).parts
    for match in map(Path, [path] if is_folder else glob(path, recursive=True)):  # noqa: PTH207 - as the user writes it
        if any(is_junk(part) and part not in path_parts for part in match.parts):
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
        used = {os.path.relpath(image, path) for image in images}
        if left_out := summary(files_besides(used, Path(path)), Path(path)):
            print(f"left out of {escape_name(path)}: {left_out}", file=sys.stderr)
    return images


def _listed_in(list_file: str) -> list[str]:
    try:
        content = sys.stdin.buffer.read() if list_file == STANDARD_INPUT else Path(list_file).read_bytes()
    except OSError as error:
        raise UserError(
            f"The list {list_file} cannot be read: {error.strerror}; give a text file with one path per line."
        ) from error
    content = content.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of editors on Windows
    lines = content.split(b"\0") if b"\0" in content else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    if paths := [os.fsdecode(line) for line in lines if line.strip()]:
        return paths
    raise UserError(f"The list {list_file} names no image; expected one path per line.")
