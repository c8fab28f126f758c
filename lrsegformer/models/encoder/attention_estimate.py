"""How sensitive the attention of a stock encoder is at given images: an estimate, as it has no bound."""

from typing import Any

import torch
from torch import nn
from transformers import SegformerModel


def softmax_jacobian_norm(probabilities: torch.Tensor) -> torch.Tensor:
    """
    A bound of the l2 norm of the softmax's Jacobian `diag(p) - p p^T` at each row of probabilities: `min(p_1, 2 p_1 (1
    - p_1))`, `p_1` the largest; at most 1/2.

    The largest eigenvalue is at most that of `diag(p)`, and at most the largest absolute row sum, `2 p_i (1 - p_i)`,
    which is largest for `p_1`.

    Args:
        probabilities (`torch.Tensor` of shape `(..., keys)`): rows that sum to 1.

    Returns:
        `torch.Tensor` of shape `(...)`.
    """
    largest = probabilities.amax(dim=-1)
    return torch.minimum(largest, 2 * largest * (1 - largest))


@torch.no_grad()
def attention_estimate(encoder: SegformerModel, pixel_values: torch.Tensor) -> dict[str, Any]:
    """
    The local constant of each attention's softmax at the data; see
    [`~lrsegformer.models.lipschitz_head.LipschitzHeadMixin.attention_estimate`].
    """
    config = encoder.config
    implementation = config._attn_implementation
    # The fused kernels keep their probabilities to themselves.
    config._attn_implementation = "eager"
    try:
        attentions = encoder(pixel_values, output_attentions=True).attentions
    finally:
        config._attn_implementation = implementation
    names = [name for name, module in encoder.named_modules() if _is_attention(module)]
    norms = [softmax_jacobian_norm(each.float()) for each in attentions]
    return {
        "quantity": "l2 norm of the attention's softmax Jacobian, by its top probability",
        "images": len(pixel_values),
        "guaranteed": False,
        "layers": [
            {"name": name, "mean_estimate": each.mean().item(), "largest_estimate": each.max().item()}
            for name, each in zip(names, norms, strict=True)
        ],
        "mean_estimate": torch.stack([each.mean() for each in norms]).mean().item(),
        "largest_estimate": max(each.max().item() for each in norms),
    }


def _is_attention(module: nn.Module) -> bool:
    return hasattr(module, "q_proj") and hasattr(module, "k_proj")
