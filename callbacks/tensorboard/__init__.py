"""Pictures, tables and graphs for TensorBoard."""
