"""Single runs, several seeds, repeated runs and dry runs."""
