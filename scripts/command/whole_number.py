"""Whole numbers as arguments of commands."""

from argparse import ArgumentTypeError

MOST = 2**32


def whole_number(text: str, least: int = 1) -> int:
    """Parse a whole number, for argparse's `type`."""
    if not text.isdecimal() or not least <= int(text) <= MOST:
        raise ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)
