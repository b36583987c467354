"""The image files that a command line names."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path

from core.names import escape_name
from core.user_error import UserError
from datamodules.decoding.image_file import holds_numbers, is_image
from datamodules.decoding.image_files import images_under, is_junk
from datamodules.packing.left_out import files_besides, summary

STANDARD_INPUT = "-"


def input_images(paths: Sequence[str], lists: Sequence[str] = ()) -> list[str]:
    """Find the images, in the order in which they were asked for; a line on standard error says what is left out."""
    images = [name for path in paths for name in _images_of(path)]
    images += [name for list_ in lists for name in _names_in_list(list_)]
    if not images:
        raise UserError("No images are given; name files, folders or globs, or a list with --list.")
    return images


def _images_of(path: str) -> Sequence[str]:
    if path == STANDARD_INPUT:
        return _names_in_list(path)
    matches = [path]
    if os.path.lexists(path):
        if not Path(path).is_dir():
            return [path]
    elif has_magic(path):
        matches = glob(path, recursive=True)  # noqa: PTH207 - strings that are kept as they are
    else:
        raise UserError(f"There is no {path}; name image files, folders of them, or globs.")
    asked_for = set(Path(path).parts)
    images = sorted({name for match in matches for name in _images_of_match(match, asked_for)})
    images = images or sorted(filter(holds_numbers, matches))
    if not images:
        raise UserError(
            f"The folder {path} has no images, nor have those in it; name another."
            if matches == [path]
            else f"No image matches {path}; name image files, folders of them, or other globs."
        )
    plain = takewhile(lambda part: matches == [path] or not has_magic(part), Path(path).parts)
    top = Path(*plain)
    others = {name for match in matches for name in _files_of_match(match)}.difference(images)
    if left_out := summary([os.path.relpath(name, top) for name in others], top):
        print(f"left out of {escape_name(str(top))}: {left_out}", file=sys.stderr)
    return images


def _images_of_match(match: str, asked_for: Collection[str]) -> Iterator[str]:
    if any(is_junk(part) and part not in asked_for for part in Path(match).parts):
        return
    if Path(match).is_dir():
        try:
            yield from (os.path.join(match, name) for name in images_under(Path(match), Path(match)))  # noqa: PTH118
        except OSError as error:
            raise UserError(
                f"The folder {error.filename} cannot be read: {error.strerror}; see to that, or name others."
            ) from error
    elif is_image(match):
        yield match


def _files_of_match(match: str) -> Iterator[str]:
    if Path(match).is_dir():
        return (os.path.join(match, name) for name in files_besides((), Path(match)))  # noqa: PTH118
    return iter([match])


def _names_in_list(list_: str) -> list[str]:
    source = "Standard input" if list_ == STANDARD_INPUT else list_
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
    raise UserError(f"{source} names no image; expected a path on each line.")
