"""What every other folder uses: the error for users, names in messages, plain data and atomic writes."""
