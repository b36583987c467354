"""How a network is trained: optimizer, parameter groups, freezing, metrics and precision."""
