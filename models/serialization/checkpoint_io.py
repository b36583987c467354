"""Lightning's way to the writer of checkpoints."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from models.serialization.checkpoint import write_checkpoint


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their target, forces them to the disk and renames them.

    Lightning's own writes to the system's folder for temporary files, which may be on another disk, so that its last
    step is a copy that a kill can cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; at a remote address as Lightning does."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))
