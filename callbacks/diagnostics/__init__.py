"""Learning-rate range test, schedule plot and step benchmark."""
