"""The error that is no mistake of the user."""


class CommandError(RuntimeError):
    """A command cannot do its work: a disk is full, a process has died; the message says what, and what to do.

    Commands print the message without a traceback and end with exit status 1.
    """
