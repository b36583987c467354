"""The argument --images."""

from core.user_error import UserError


def number_of_images(text: str) -> int:
    """Parse the value of --images."""
    if not text.isdecimal() or not int(text):
        raise UserError(f"--images is {text}; give a whole number of at least 1.")
    return int(text)
