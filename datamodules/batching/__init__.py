"""Splits, samplers and the transform of a batch on the device."""
