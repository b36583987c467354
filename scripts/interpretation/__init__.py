"""Activations, attributions, embeddings and layer tables of a trained network."""
