"""Activations, filters, attributions and embeddings."""
