"""What commands share: configuration, flags, user errors, output files."""
