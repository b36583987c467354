"""Choose the precision in which a network trains fastest."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core.breakpoints import skipping_breakpoints

# Floating-point operations per image above which bfloat16 outweighs its conversions on a CPU. On 2 cores with
# AVX512-BF16 a training step at batch 64 took in float32 and in bf16-mixed, in ms: MLP of 0.13 MFLOP 0.4 and 0.4,
# ConvNet of 1 MFLOP 2.1 and 1.9, MLP of 3.1 MFLOP 2.3 and 1.0, ConvNet of 12 MFLOP 10.7 and 6.9.
MIN_FLOPS = 3_000_000


def choose_precision(network: nn.Module, image_shape: tuple[int, int, int], device: torch.device) -> tuple[str, str]:
    """Return `bf16-mixed` or `32-true`, and the reason for the choice."""
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    has_bfloat16 = features.get("avx512_bf16") or features.get("amx_bf16")
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if not has_bfloat16:
        return "32-true", "this device does not compute in bfloat16"
    if device.type == "cpu" and count_flops(network, image_shape) < MIN_FLOPS:
        return "32-true", "the network is too small to gain from bfloat16"
    return "bf16-mixed", "this device computes in bfloat16"


def count_flops(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Count the floating-point operations of one image's forward pass; a multiply-add counts as two."""
    network_copy = copy.deepcopy(network).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), skipping_breakpoints():
        network_copy(torch.zeros(1, *image_shape))
    return int(counter.get_total_flops())
