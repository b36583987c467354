"""What every other folder uses: the error for users, names, plain data and atomic writes."""
