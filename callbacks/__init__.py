"""Callbacks and loggers, one idea per file; they work with any model and any data set."""
