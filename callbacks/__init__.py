"""What watches a training: one idea a file, each working with any model and any data set."""
