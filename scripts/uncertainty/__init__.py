"""Confidence intervals, significance tests and calibration."""
