"""Errors that a command prints as one line, without a traceback."""


class UserError(Exception):
    """Raised for an argument, key or file that cannot be used; the message says what to do instead.

    A command prints the message and exits with status 2.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the message without a traceback."""
        return [f"error: {self}"]


class CommandError(RuntimeError):
    """Raised when a command fails for another reason, such as a full disk; the message says what to do.

    A command prints the message and exits with status 1.
    """
