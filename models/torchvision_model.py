"""The classification networks of torchvision, by name."""

from difflib import get_close_matches

from torch import Tensor, nn
from torchvision.models import get_model, list_models


class TorchvisionModel(nn.Module):
    """Any classification network of torchvision, from scratch.

    Args:
        name: One of `torchvision.models.list_models(module=torchvision.models)`, such as `resnet18`.
        num_classes: Classes, K.

    Shape:
        float `[B, 3, H, W]` to logits float `[B, K]`.

    Raises:
        ValueError: If there is no such network.
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        import torchvision.models  # the package itself, to list only the models for classification

        names = list_models(module=torchvision.models)
        if name not in names:
            near = get_close_matches(name, names, n=3)
            raise ValueError(
                f"torchvision has no classification network {name}; {'did you mean' if near else 'it has'} "
                f"{', '.join(near or names)}?"
            )
        self.network = get_model(name, num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each class."""
        logits: Tensor = self.network(images)
        return logits
