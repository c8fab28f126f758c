"""
The constants of attention: a step down an energy, 1-Lipschitz in l2 for all tokens, and softmax on bounded tokens.

Tokens are the pixels of a map, and keys are the means of blocks of `block` x `block` of them (sequence reduction). A
block that reaches beyond the map is filled with zeros, and its sum is divided by `block^2` all the same. Where
attention looks within windows, `queries` and `keys` are those of one. Proofs in docs/lipschitz_constraints.md.
"""

from dataclasses import dataclass

import torch

from lrsegformer.certification.calculus import Constants, constants
from lrsegformer.certification.parts import finite_norm


@dataclass(frozen=True)
class Tokens:
    """
    How many tokens look at how many.

    Attributes:
        queries (`int`), keys (`int`): in one window, or in the map where there are none.
        block (`int`): side of the block of tokens that a key is the mean of; 1 where each token is a key.
        windows (`int`): that the map consists of; they share no token.
    """

    queries: int
    keys: int
    block: int = 1
    windows: int = 1

    @property
    def pixels(self) -> int:
        """Of the map."""
        return self.windows * self.queries

    @property
    def pulls(self) -> float:
        """How strongly one token is pulled as part of a key: by `queries`, each through `1 / block^2` of it."""
        return self.queries / self.block**2


@dataclass(frozen=True, eq=False)
class HeadNorms:
    """
    What is known of a matrix that makes queries, keys or values for several heads.

    Attributes:
        joint (`torch.Tensor`): norm of the whole matrix, a float64 scalar.
        each (`torch.Tensor` of shape `(heads,)`): norm of the rows of each head.
        radius (`torch.Tensor` of shape `(heads,)`): the largest length of what a head makes of a token.
    """

    joint: torch.Tensor
    each: torch.Tensor
    radius: torch.Tensor


def head_norms(weight: torch.Tensor, heads: int, token_radius: torch.Tensor | float) -> HeadNorms:
    """
    The norms of `weight` `(heads x width, channels)`, which is multiplied by tokens no longer than `token_radius`.

    Where queries, keys or values are themselves clipped onto a ball, its radius may stand in `radius`.
    """
    each = torch.stack([finite_norm(rows, "l2") for rows in weight.double().chunk(heads)])
    return HeadNorms(finite_norm(weight, "l2"), each, each * token_radius)


def energy_attention(squared_norm: torch.Tensor | float, beta: torch.Tensor | float, tokens: Tokens) -> Constants:
    """
    Of `x - (2 / beta) grad E(x)`, `E(x) = sum_hij phi(abs(W_h (x_i - k_j)))`, the `k_j` means of blocks of the `x_i`.

    `phi` is convex and increasing from `phi'(0) = 0`, with `phi'' <= 1`, so that `phi'(r) / r`, the weight with which
    a token is drawn to a key at distance r, lies in [0, 1]: Huber's function, or `d^2 (sqrt(1 + r^2 / d^2) - 1)`. It
    may differ from pair to pair and from head to head.

    In l2 exactly 1 where `beta >= (keys + queries / block^2) squared_norm`, and what the smallest eigenvalue leaves
    below that. Per pixel at most 3 in that case for `block = 1` and 2 + sqrt(2) else; with twice that `beta`, sqrt(2)
    and 1 + sqrt(1.5).

    Args:
        squared_norm (`torch.Tensor` or `float`): `sigma(W)^2`, W the matrices of all heads on top of each other.
        beta (`torch.Tensor` or `float`): what the step is divided by.
        tokens ([`Tokens`]).
    """
    step = 2 * torch.as_tensor(squared_norm, dtype=torch.float64) / beta
    own, others = step * tokens.keys, step * tokens.pulls
    l2 = (own + others - 1).clamp_min(1.0)
    if tokens.block == 1:
        # A token is its own key: both pulls are between the same two tokens, and make one matrix.
        per_pixel = _averaging_gain(own + others)
    else:
        per_pixel = _averaging_gain(own) + 2 * others
    return constants(l2, per_pixel, tokens.pixels, tokens.pixels).within_window(tokens.queries)


def _averaging_gain(size: torch.Tensor) -> torch.Tensor:
    """
    Of `(I - sum_j B_j) z + sum_j B_j z_j` with `B_j >= 0` whose norms sum to at most `size`, `z` and `z_j` in a ball.

    `sqrt(sigma(abs(I - G) + G) (sigma(I - G) + size))`, `G = sum_j B_j <= size`: sqrt(1 + size) for sizes up to 1.
    """
    apart = (size - 1).clamp_min(1.0)
    return ((2 * size - 1).clamp_min(1.0) * (apart + size)).sqrt()


def softmax_attention(
    query: HeadNorms, key: HeadNorms, value: HeadNorms, temperature: torch.Tensor | float, tokens: Tokens
) -> Constants:
    """
    Of dot-product attention among tokens that lie in a ball, up to the heads' outputs side by side.

    `o_i = sum_j softmax_j(temperature <q_i, k_j>) v_j` for each head. It holds where all tokens are no longer than the
    radius that the norms were made with: clip them onto that ball first, which expands nothing.

    Args:
        query, key, value ([`HeadNorms`]): keys and values are made of the means of blocks.
        temperature (`torch.Tensor` of shape `()` or `(heads,)`, or `float`): the logits' factor.
        tokens ([`Tokens`]).
    """
    scale = torch.as_tensor(temperature, dtype=torch.float64).abs()
    logit = scale * query.radius * key.radius
    # The largest weight that a key can get: its logit `logit`, all others' `-logit`.
    weight = 1 / (1 + (tokens.keys - 1) * (-2 * logit).exp())
    through_query = (scale * value.radius * key.radius).amax() * query.joint
    through_key = scale * query.radius * value.radius

    def from_l2(share: torch.Tensor) -> torch.Tensor:
        """With `sqrt(sum w_ij)` over what is summed: over queries for all pixels, over keys for one of them."""
        through_means = share.amax() * value.joint + (share * through_key).amax() * key.joint
        return through_means / tokens.block + through_query

    per_pixel = torch.linalg.vector_norm(value.each + through_key * key.each) + through_query
    l2 = from_l2((tokens.queries * weight).sqrt())
    return constants(l2, per_pixel, tokens.pixels, tokens.pixels, l2_to_per_pixel=from_l2(weight.sqrt()))
