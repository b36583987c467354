"""The errors that commands print as one sentence."""


class UserError(Exception):
    """Something that the user has given cannot be used; the message says what, and what to do.

    Commands print the message without a traceback and end with exit status 2.
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence alone."""
        return [f"error: {self}"]


class CommandError(RuntimeError):
    """A command cannot do its work: a disk is full, a process has died; the message says what, and what to do.

    Commands print the message without a traceback and end with exit status 1.
    """
