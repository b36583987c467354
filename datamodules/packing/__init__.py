"""Memory-mapped packs of images and features, written once and atomically."""
