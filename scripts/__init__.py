"""What people run."""

import core as core  # first, for Ctrl-C
