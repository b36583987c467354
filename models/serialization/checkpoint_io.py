"""A Lightning plugin that writes checkpoints atomically."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from models.serialization.checkpoint import write_checkpoint


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints with `write_checkpoint`, because a kill can interrupt Lightning's final copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint atomically; a remote address (`s3://...`) is left to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))
