"""Find unreadable, stray, duplicate and leaked images in a data set."""
