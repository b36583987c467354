"""Batch to loss: one file per network family, and the LightningModule that wraps any of them."""
