"""Pictures, tables and graphs for TensorBoard, and its pictures and settings for other loggers."""
