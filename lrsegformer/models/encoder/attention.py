"""Attention that is Lipschitz on what reaches it, of two kinds."""

import math

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from lrsegformer.certification.attention import Tokens, energy_attention, head_norms, softmax_attention
from lrsegformer.certification.calculus import Constants, convex_residual
from lrsegformer.kernels.distance_pulls import distance_pulls
from lrsegformer.kernels.norm_relu_classifier import multiply_pixels
from lrsegformer.kernels.precision import at_least_float32, without_autocast
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.encoder.pointwise import PointwiseMap


class EnergyAttention(nn.Module):
    """
    A step down the energy `E(x) = sum_hij phi(abs(W_h (x_i - k_j)))` of all tokens: attention by l2 distance.

    `phi(r) = d_h^2 sqrt(1 + r^2 / d_h^2)`, so that token i is drawn to key j with the weight
    `1 / sqrt(1 + r^2 / d_h^2)`, a number near 1 for tokens that are alike and near 0 for those that are not. Keys are
    the means of blocks of tokens, as wide as the sequence reduction says, and are drawn back. 1-Lipschitz in l2,
    without damping; proof in docs/lipschitz_constraints.md.

    Args:
        config ([`LRSegformerConfig`]): the strategy that makes `W`, all heads on top of each other.
        channels (`int`), heads (`int`), block (`int`): the stage's; block is its sequence reduction.
    """

    def __init__(self, config: LRSegformerConfig, channels: int, heads: int, block: int):
        super().__init__()
        self.matrix = PointwiseMap(config, channels, channels)
        self.heads, self.block = heads, block
        self.log_distance = nn.Parameter(torch.zeros(heads))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The step from `hidden_states` `(batch, channels, height, width)`, sides multiples of the block."""
        matrix, bound = self.matrix.maps()
        queries = multiply_pixels(matrix, hidden_states)
        keys = avg_pool2d(queries, self.block) if self.block > 1 else queries
        pull, pull_back = self._pulls(queries, keys)
        if self.block > 1:
            pull_back = interpolate(pull_back, scale_factor=self.block, mode="nearest") / self.block**2
        # beta = 2 keys sigma(W)^2; autocast may have lowered the precision of the pulls.
        step = matrix.T * (-1 / (self._keys(keys) * bound.square()))
        return hidden_states + multiply_pixels(step, pull.to(queries.dtype) + pull_back.to(queries.dtype))

    def _pulls(self, queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of the energy at the maps of queries and of keys."""
        with without_autocast(queries.device.type):
            # Squares of differences of large numbers: half precision has too few digits for them.
            tokens = (at_least_float32(maps).flatten(2).unflatten(1, (self.heads, -1)) for maps in (queries, keys))
            pull, pull_back = distance_pulls(*tokens, at_least_float32(self.log_distance))
        return pull.reshape(queries.shape), pull_back.reshape(keys.shape)

    @staticmethod
    def _keys(keys: torch.Tensor) -> int:
        return keys.shape[2] * keys.shape[3]

    def constants(self, pixels: int) -> Constants:
        """Of the step in eval mode, on maps of this many pixels."""
        tokens = Tokens(queries=pixels, keys=pixels // self.block**2, block=self.block)
        bound = self.matrix.maps().bound.double()
        return energy_attention(self.matrix.norm().square(), 2 * tokens.keys * bound.square(), tokens)


class SoftmaxAttention(nn.Module):
    """
    Dot-product attention among tokens clipped onto a ball, divided by its constant, in a convex residual.

    `(1 - a) x + a f(x) / L`, `L` the bound of `f` in l2 (docs/lipschitz_constraints.md), which grows with the number
    of tokens and with the temperature. Both are learned within what keeps `L` small at the start.

    Args:
        config ([`LRSegformerConfig`]): the strategy that makes the queries, keys and values.
        channels (`int`), heads (`int`), block (`int`): as for [`EnergyAttention`].
    """

    # Of the ball that tokens are clipped onto, in units of the pixels' range.
    RADIUS = 4.0

    def __init__(self, config: LRSegformerConfig, channels: int, heads: int, block: int):
        super().__init__()
        self.query = PointwiseMap(config, channels, channels)
        self.key = PointwiseMap(config, channels, channels)
        self.value = PointwiseMap(config, channels, channels)
        self.heads, self.block = heads, block
        # Logits between -1/2 and 1/2, and a share of 0.12 for attention, at the start.
        self.log_temperature = nn.Parameter(torch.full((), -math.log(2 * self.RADIUS**2)))
        self.share_logit = nn.Parameter(torch.full((), -2.0))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attention from `hidden_states` `(batch, channels, height, width)`, sides multiples of the block."""
        lengths = torch.linalg.vector_norm(at_least_float32(hidden_states), dim=1, keepdim=True)
        clipped = hidden_states * (self.RADIUS / lengths.clamp_min(self.RADIUS)).to(hidden_states.dtype)
        means = avg_pool2d(clipped, self.block) if self.block > 1 else clipped
        query = _by_head(multiply_pixels(self.query.maps().matrix, clipped), self.heads)
        key = _by_head(multiply_pixels(self.key.maps().matrix, means), self.heads)
        value = _by_head(multiply_pixels(self.value.maps().matrix, means), self.heads)
        logits = at_least_float32(query @ key.transpose(2, 3)) * self.log_temperature.exp()
        attended = logits.softmax(dim=-1).to(value.dtype) @ value
        attended = attended.transpose(2, 3).reshape(hidden_states.shape)
        share = self.share_logit.sigmoid()
        divided = share / self._l2_constant(hidden_states.shape[2] * hidden_states.shape[3])
        return attended * divided.to(attended.dtype) + hidden_states * (1 - share).to(hidden_states.dtype)

    def _l2_constant(self, pixels: int) -> torch.Tensor:
        """What the branch is divided by, from the layers' guaranteed bounds; differentiable, float32."""
        query, key, value = (each.maps().bound for each in (self.query, self.key, self.value))
        tokens = Tokens(queries=pixels, keys=pixels // self.block**2, block=self.block)
        logit = self.log_temperature.exp() * self.RADIUS**2 * query * key
        share = (tokens.queries / (1 + (tokens.keys - 1) * (-2 * logit).exp())).sqrt()
        return share * value * (1 + logit) / self.block + logit * value

    def constants(self, pixels: int) -> Constants:
        """Of the whole, residual included, in eval mode, on maps of this many pixels."""
        tokens = Tokens(queries=pixels, keys=pixels // self.block**2, block=self.block)
        query, key, value = (
            head_norms(each.exact_matrix(), self.heads, self.RADIUS) for each in (self.query, self.key, self.value)
        )
        branch = softmax_attention(query, key, value, self.log_temperature.double().exp(), tokens)
        divided = branch.scaled(1 / self._l2_constant(pixels).double())
        return convex_residual(divided, self.share_logit.double().sigmoid(), pixels)


ATTENTIONS: dict[str, type[nn.Module]] = {"energy": EnergyAttention, "softmax": SoftmaxAttention}


def _by_head(maps: torch.Tensor, heads: int) -> torch.Tensor:
    """`(batch, channels, height, width)` as tokens `(batch, heads, height * width, channels / heads)`."""
    return maps.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
