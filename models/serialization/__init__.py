"""Write, read and verify checkpoints and pretrained weights, and check the classes that they name."""
