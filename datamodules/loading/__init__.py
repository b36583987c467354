"""Data loading with worker processes, and a progress display."""
