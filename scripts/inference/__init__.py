"""Load a trained network, predict and export."""
