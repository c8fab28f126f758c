"""The last map: rows of one length, whose distances are what certificates divide by."""

import torch
from torch import nn

from lrsegformer.kernels.precision import at_least_float32
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig

# A row without entries stays one.
SMALLEST_LENGTH = 1e-12


class EqualRowsClassifier(nn.Module):
    """
    Rows of length `1 / temperature` and a bias.

    The logits of classes a and b differ by a function with the constant `abs(w_a - w_b)` times that of the features:
    the strategies' bounds of the whole matrix would say less. The length makes softmax's probabilities sharp enough to
    be trained by plain cross entropy, and cancels out of certificates.

    Args:
        config ([`LRSegformerConfig`]): for `num_labels` and `certified_temperature`.
        channels (`int`): of the features.
    """

    def __init__(self, config: LRSegformerConfig, channels: int):
        super().__init__()
        self.length = 1 / config.certified_temperature
        self.weight = nn.Parameter(torch.empty(config.num_labels, channels))
        self.bias = nn.Parameter(torch.zeros(config.num_labels))

    def rows(self) -> torch.Tensor:
        """`(num_labels, channels)`, at least float32, differentiable."""
        weight = at_least_float32(self.weight)
        lengths = torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_min(SMALLEST_LENGTH)
        return weight * (self.length / lengths)

    @torch.no_grad()
    def logit_margins(self, radius: float, constant: torch.Tensor | float) -> torch.Tensor:
        """
        `radius * constant * abs(w_a - w_b)`, `(num_labels, num_labels)`: by how much class a has to lead class b
        for a certificate of this radius.
        """
        rows = self.rows().double()
        distances = torch.linalg.vector_norm(rows[:, None] - rows[None], dim=2)
        return (radius * constant * distances).float()
