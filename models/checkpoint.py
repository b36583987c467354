"""Reading a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a Classifier into memory; no code in it is run.

    Args:
        path: The file.

    Returns:
        The checkpoint: plain types, and tensors on the CPU.

    Raises:
        MisconfigurationException: If there is no such file, or it is damaged or another program's.
    """
    path = Path(path)
    if not path.is_file():
        raise MisconfigurationException(
            f"There is no checkpoint {path}; give a file such as runs/EXPERIMENT/DATE-TIME/checkpoints/best.ckpt."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise MisconfigurationException(
            f"The checkpoint {path} cannot be read: it is truncated, damaged or holds code; use another checkpoint of "
            "the run."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "class_names", "preprocessing"} <= checkpoint.keys():
        raise MisconfigurationException(
            f"{path} is no checkpoint of this program: it lacks weights, class names or preprocessing; give one that "
            "scripts/train.py has written."
        )
    return checkpoint
