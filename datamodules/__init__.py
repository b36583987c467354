"""Data to batches: one file per data set, and the one data path that they share."""
