"""Find image and array files, and decode them to pixels."""
