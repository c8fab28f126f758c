"""How the tensors of a certified network start, and what it takes over from a stock backbone."""

import math

import torch
from torch import nn
from transformers import initialization as init

from lrsegformer.models.certified.classifier import EqualRowsClassifier
from lrsegformer.models.certified.decode_head import CertifiedDecodeHead
from lrsegformer.models.encoder.attention import EnergyAttention, SoftmaxAttention
from lrsegformer.models.encoder.certified import CentringNorm
from lrsegformer.models.encoder.embedding import BlockEmbedding
from lrsegformer.models.encoder.mix_ffn import ConvexPotentialStep, UnitGainDepthwiseConv

# A step folds its coordinates at the biases, and a fold at 0 loses the sign of half of them; kernels of unit gain that
# are not the identity shrink what they do not pass. Both start where the network keeps most of its signal.
BIAS_STD = 0.3
KERNEL_STD = 0.003
# Of energy attention: tokens further apart than this, in units of the pixels' range, hardly draw each other.
LOG_DISTANCE = -5.0
POSITION_STD = 0.01


@torch.no_grad()
def initialise(module: nn.Module) -> bool:
    """
    Give the tensors that `module` itself holds, and that were not loaded, their first values.

    Returns:
        `bool`: whether it is a module of the certified network.
    """
    match module:
        case UnitGainDepthwiseConv():
            middle = module.weight.shape[-1] // 2
            kernel = KERNEL_STD * torch.randn_like(module.weight)
            kernel[..., middle, middle] += 1
            init.copy_(module.weight, kernel)
        case ConvexPotentialStep():
            init.normal_(module.bias, std=BIAS_STD)
        case CentringNorm():
            init.zeros_(module.bias)
        case EnergyAttention():
            init.constant_(module.log_distance, LOG_DISTANCE)
        case SoftmaxAttention():
            init.constant_(module.log_temperature, -math.log(2 * module.RADIUS**2))
            init.constant_(module.share_logit, -2.0)
        case EqualRowsClassifier():
            init.normal_(module.weight)
            init.zeros_(module.bias)
        case CertifiedDecodeHead():
            init.zeros_(module.scale_logits)
            init.zeros_(module.bias)
            if module.positions is not None:
                init.normal_(module.positions, std=POSITION_STD)
        case BlockEmbedding():
            init.zeros_(module.bias)
            if not getattr(module.matrix.linear.weight, "_is_hf_initialized", False):
                module.start_from_frequencies()
        case _:
            return False
    return True
