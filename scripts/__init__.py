"""The commands that users run."""

import core as core  # first, so that Ctrl-C during the other imports leaves no traceback
