"""A multilayer perceptron."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.head import head_layers


class MLP(nn.Module):
    """Fully connected layers on flattened images (Rumelhart, Hinton and Williams, 1986).

    Args:
        in_features: Number of values in an image, C * H * W.
        num_classes: Number of classes, K.
        hidden_sizes: Width of each hidden layer. With none, this is multinomial logistic regression.
        activation: Non-linearity after each hidden layer.
        dropout: Probability that a hidden unit is zeroed in training.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden_sizes: Sequence[int] = (128,),
        activation: type[nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers = head_layers(in_features, hidden_sizes, num_classes, activation, dropout)
        self.layers = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float `[B, K]`."""
        return self.layers(images)
