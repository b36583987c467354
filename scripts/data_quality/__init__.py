"""Unreadable, duplicate, leaked and stray images."""
