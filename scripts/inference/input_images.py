"""Which image files are meant by what stands on a command line."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path

from core.names import escape_name
from core.user_error import UserError
from datamodules.decoding.image_file import is_image
from datamodules.decoding.image_files import images_under, is_junk
from datamodules.packing.left_out import files_besides, summary

STANDARD_INPUT = "-"


def input_images(paths: Sequence[str], lists: Sequence[str] = ()) -> list[str]:
    """Find the images, in the order in which they were asked for; a line on standard error says what is left out."""
    found = [name for path in paths for name in _meant_by(path)]
    found += [name for list_ in lists for name in _listed_in(list_)]
    if not found:
        raise UserError("No images are given; name files, folders or globs, or a list with --list.")
    return found


def _meant_by(path: str) -> Sequence[str]:
    if path == STANDARD_INPUT:
        return _names_in(sys.stdin.buffer.read(), "Standard input")
    matches = [path]
    if os.path.lexists(path):
        if not Path(path).is_dir():
            return [path]
    elif has_magic(path):
        matches = glob(path, recursive=True)  # noqa: PTH207 - strings that are kept as they are
    else:
        raise UserError(f"There is no {path}; name image files, folders of them, or globs.")
    asked_for = set(Path(path).parts)
    found = sorted({name for match in matches for name in _images_of(match, asked_for)})
    if not found:
        raise UserError(
            f"The folder {path} has no images, nor have those in it; name another."
            if matches == [path]
            else f"No image matches {path}; name image files, folders of them, or other globs."
        )
    plain = takewhile(lambda part: matches == [path] or not has_magic(part), Path(path).parts)
    top = Path(*plain)
    others = {name for match in matches for name in _files_of(match)}.difference(found)
    if left_out := summary([os.path.relpath(name, top) for name in others], top):
        print(f"left out of {escape_name(str(top))}: {left_out}", file=sys.stderr)
    return found


def _images_of(match: str, asked_for: Collection[str]) -> Iterator[str]:
    if any(is_junk(part) and part not in asked_for for part in Path(match).parts):
        return
    if Path(match).is_dir():
        yield from _images_in(match)
    elif is_image(match):
        yield match


def _files_of(match: str) -> Iterator[str]:
    if Path(match).is_dir():
        return (os.path.join(match, name) for name in files_besides((), Path(match)))  # noqa: PTH118
    return iter([match])


def _images_in(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in images_under(Path(folder), Path(folder))]  # noqa: PTH118
    except OSError as error:
        raise UserError(
            f"The folder {error.filename} cannot be read: {error.strerror}; see to that, or name others."
        ) from error


def _listed_in(list_: str) -> list[str]:
    if list_ == STANDARD_INPUT:
        return list(_meant_by(list_))
    try:
        return _names_in(Path(list_).read_bytes(), list_)
    except OSError as error:
        raise UserError(
            f"The list {list_} cannot be read: {error.strerror}; give a text file that names an image on each line."
        ) from error


def _names_in(content: bytes, source: str) -> list[str]:
    content = content.removeprefix(b"\xef\xbb\xbf")  # which editors on Windows begin a text with
    lines = content.split(b"\0") if b"\0" in content else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    if found := [os.fsdecode(line) for line in lines if line.strip()]:
        return found
    raise UserError(f"{source} names no image; expected a path on each line.")
