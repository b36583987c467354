"""Callbacks that log pictures, tables, graphs and hyperparameters, for TensorBoard and other loggers."""
