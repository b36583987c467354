"""Whole numbers as arguments of commands."""

from argparse import ArgumentTypeError


def whole_number(text: str, least: int = 1, most: int = 2**32) -> int:
    """Parse a whole number, for argparse's `type`."""
    if not text.isdecimal() or not least <= int(text) <= most:
        limits = f"of at least {least}" if most == 2**32 else f"from {least} to {most}"
        raise ArgumentTypeError(f"{text!r} is no whole number {limits}")
    return int(text)
