"""The page of one checkpoint's evaluation."""
