"""Which parameters an optimizer treats alike."""

from typing import Any

from torch import nn

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose parameters, of whatever shape, are scales and shifts."""


def parameter_groups(module: nn.Module, *, decay_norms_and_biases: bool = True) -> list[dict[str, Any]]:
    """The trainable parameters as an optimizer takes them, each once and in the order of the module.

    Args:
        module: The network, or what it is part of.
        decay_norms_and_biases: Whether the optimizer's weight decay holds for all. Without, it is 0 for parameters of
            normalisation layers and those of at most one dimension, biases and scales, which decay does not
            regularise (He et al., 2019, "Bag of Tricks for Image Classification"). Tokens and position embeddings
            count as weights.

    Returns:
        One group without a name, or the groups `weights` and `norms_and_biases`, the latter with `weight_decay` 0; a
        group without parameters is left out.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if decay_norms_and_biases:
        return [{"params": trainable}]
    of_norms = {parameter for layer in module.modules() if isinstance(layer, NORMS) for parameter in layer.parameters()}
    spared = {parameter for parameter in trainable if parameter in of_norms or parameter.ndim <= 1}
    groups: list[dict[str, Any]] = [
        {"name": "weights", "params": [parameter for parameter in trainable if parameter not in spared]},
        {
            "name": "norms_and_biases",
            "params": [parameter for parameter in trainable if parameter in spared],
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]
