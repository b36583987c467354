"""Lightning's way to the writer of checkpoints."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from models.serialization.checkpoint import write_checkpoint


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints as `write_checkpoint` does: a kill can cut short the copy that is Lightning's last step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; at a remote address as Lightning does."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))
