"""How tokens and keys draw each other by their distance, as one step of autograd that keeps no matrix of weights."""

from collections.abc import Iterator

import torch

from lrsegformer.kernels.chunks import are_values
from lrsegformer.kernels.precision import without_autocast
from lrsegformer.kernels.transforms import under_torch_func

# Weights worked on at a time: what stays in the cache of a CPU.
CHUNK_ELEMENTS = 2**18


def distance_pulls(
    queries: torch.Tensor, keys: torch.Tensor, log_distance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    `sum_j w_ij (q_i - k_j)` for each query and `sum_i w_ij (k_j - q_i)` for each key, with the weights
    `w_ij = 1 / sqrt(1 + abs(q_i - k_j)^2 / d_h^2)`: the gradient of the sum of `d_h^2 / w_ij`.

    On a CPU some weights at a time are made, used, and made again in the backward pass, which needs no memory for
    them and stays in the cache; on other devices all at once.

    Args:
        queries (`torch.Tensor` of shape `(batch, heads, width, tokens)`): float32 or float64.
        keys (`torch.Tensor` of shape `(batch, heads, width, keys)`): of that dtype.
        log_distance (`torch.Tensor` of shape `(heads,)`): `log d_h`, of that dtype.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: of the shapes of queries and keys.
    """
    tensors = (queries, keys, log_distance)
    if _has_own_gradient(*tensors):
        return _DistancePulls.apply(*tensors)
    return plain_pulls(*tensors)


def plain_pulls(
    queries: torch.Tensor, keys: torch.Tensor, log_distance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`distance_pulls`] by operations that torch knows the derivatives of, of any order."""
    squares = queries.square().sum(dim=2)[..., None] + keys.square().sum(dim=2)[:, :, None]
    distances = torch.sub(squares, queries.transpose(2, 3) @ keys, alpha=2).clamp_min(0)
    inverse = (-2 * log_distance).exp()[:, None, None]
    weights = torch.addcmul(torch.ones_like(inverse), distances, inverse).rsqrt()
    at_queries = weights.sum(dim=-1)[:, :, None] * queries - keys @ weights.transpose(2, 3)
    at_keys = weights.sum(dim=-2)[:, :, None] * keys - queries @ weights
    return at_queries, at_keys


def _has_own_gradient(*tensors: torch.Tensor) -> bool:
    return are_values(*tensors) and not under_torch_func()


class _DistancePulls(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries: torch.Tensor, keys: torch.Tensor, log_distance: torch.Tensor) -> tuple:
        ctx.save_for_backward(queries, keys, log_distance)
        q, k, inverse = _by_heads(queries, keys, log_distance)
        left, right = _factors(q, k, inverse)
        of_keys, of_queries = _with_ones(k), _with_ones(q)
        at_queries, sums = torch.empty_like(q), torch.zeros_like(of_keys)
        for heads, tokens in _chunks(q, k):
            weights = _weights(left[heads, :, tokens], right[heads])
            drawn = torch.bmm(of_keys[heads], weights.mT)
            torch.addcmul(drawn[:, :-1].neg_(), drawn[:, -1:], q[heads, :, tokens], out=at_queries[heads, :, tokens])
            sums[heads].baddbmm_(of_queries[heads, :, tokens], weights)
        at_keys = torch.addcmul(sums[:, :-1].neg(), sums[:, -1:], k)
        return at_queries.view(queries.shape), at_keys.view(keys.shape)

    @staticmethod
    def backward(ctx, of_at_queries: torch.Tensor, of_at_keys: torch.Tensor) -> tuple:
        if torch.is_grad_enabled() or not _has_own_gradient(of_at_queries, of_at_keys):
            return _differentiable_gradients(ctx, of_at_queries, of_at_keys)
        with without_autocast(of_at_queries.device.type):
            return _gradients(*ctx.saved_tensors, of_at_queries, of_at_keys)


def _gradients(
    queries: torch.Tensor,
    keys: torch.Tensor,
    log_distance: torch.Tensor,
    of_at_queries: torch.Tensor,
    of_at_keys: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    With g and h the gradients at queries and keys, that of a weight is `(g_i - h_j) (q_i - k_j)`, one product of
    matrices, and from the weight, `w = (1 + D / d^2)^(-1/2)`, go `-w^3 / 2d^2` to D and `w - w^3` to `log d`.
    """
    q, k, inverse = _by_heads(queries, keys, log_distance)
    g, h = of_at_queries.reshape(q.shape), of_at_keys.reshape(k.shape)
    left, right = _factors(q, k, inverse)
    ones_q, ones_k = torch.ones_like(q[:, :1]), torch.ones_like(k[:, :1])
    of_weights_left = torch.cat([(g * q).sum(dim=1, keepdim=True), ones_q, -g, -q], dim=1)
    of_weights_right = torch.cat([ones_k, (h * k).sum(dim=1, keepdim=True), k, h], dim=1)
    with_ones = {name: _with_ones(maps) for name, maps in {"q": q, "k": k, "g": g, "h": h}.items()}
    of_queries = torch.empty_like(q)
    linear, cubic = torch.zeros_like(with_ones["k"]), torch.zeros_like(with_ones["k"])
    of_log_distance = q.new_zeros(len(q))
    for heads, tokens in _chunks(q, k):
        at = heads, slice(None), tokens
        weights = _weights(left[at], right[heads])
        of_weights = torch.bmm(of_weights_left[at].mT, of_weights_right[heads])
        drawn = torch.bmm(with_ones["h"][heads], weights.mT)
        torch.addcmul(drawn[:, :-1].neg_(), drawn[:, -1:], g[at], out=of_queries[at])
        linear[heads].baddbmm_(with_ones["g"][at], weights)
        of_weights.mul_(weights)
        of_log_distance[heads] += of_weights.sum(dim=(1, 2))
        of_weights.mul_(weights.square_())
        drawn = torch.bmm(with_ones["k"][heads], of_weights.mT)
        of_log_distance[heads] -= drawn[:, -1].sum(dim=1)
        through_distance = torch.addcmul(drawn[:, :-1], drawn[:, -1:], q[at], value=-1)
        of_queries[at].addcmul_(through_distance, inverse[heads])
        cubic[heads].baddbmm_(with_ones["q"][at], of_weights)
    of_keys = torch.addcmul(linear[:, :-1].neg(), linear[:, -1:], h)
    of_keys.addcmul_(torch.addcmul(cubic[:, :-1], cubic[:, -1:], k, value=-1), inverse)
    of_log_distance = of_log_distance.view(queries.shape[:2]).sum(dim=0)
    return of_queries.view(queries.shape), of_keys.view(keys.shape), of_log_distance


def _differentiable_gradients(ctx, *gradients: torch.Tensor) -> tuple:
    """The gradients by autograd, so that they have gradients themselves, or for many cotangents at once."""
    create_graph = torch.is_grad_enabled()
    inputs = ctx.saved_tensors
    with torch.enable_grad():
        outputs = plain_pulls(*inputs)
    wanted = [position for position in range(3) if ctx.needs_input_grad[position]]
    sources = [inputs[position] for position in wanted]
    found = torch.autograd.grad(outputs, sources, gradients, create_graph=create_graph)
    by_position = dict(zip(wanted, found, strict=True))
    return tuple(by_position.get(position) for position in range(3))


def _by_heads(
    queries: torch.Tensor, keys: torch.Tensor, log_distance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys `(batch * heads, width, ..)`, and `1 / d_h^2` `(batch * heads, 1, 1)`."""
    inverse = (-2 * log_distance).exp().expand(queries.shape[:2]).reshape(-1, 1, 1)
    return queries.flatten(0, 1), keys.flatten(0, 1), inverse


def _factors(q: torch.Tensor, k: torch.Tensor, inverse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices whose product is `1 + abs(q_i - k_j)^2 / d_h^2`, so that nothing is left to be added to it."""
    ones = torch.ones_like(q[:, :1])
    left = torch.cat([q * (-2 * inverse), q.square().sum(dim=1, keepdim=True) * inverse + 1, ones * inverse], dim=1)
    right = torch.cat([k, torch.ones_like(k[:, :1]), k.square().sum(dim=1, keepdim=True)], dim=1)
    return left, right


def _weights(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    # Rounding takes the squared distance of tokens that are alike below 0.
    return torch.bmm(left.mT, right).clamp_min_(1).rsqrt_()


def _with_ones(maps: torch.Tensor) -> torch.Tensor:
    """A row of ones below, whose product with weights is their sum."""
    return torch.cat([maps, torch.ones_like(maps[:, :1])], dim=1)


def _chunks(q: torch.Tensor, k: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Ranges of heads, and of the tokens that are queries."""
    count, tokens, keys = len(q), q.shape[2], k.shape[2]
    if q.device.type != "cpu":
        yield slice(None), slice(None)
        return
    rows = max(1, CHUNK_ELEMENTS // keys)
    heads = max(1, rows // tokens)
    for first_head in range(0, count, heads):
        for first in range(0, tokens, rows):
            yield slice(first_head, first_head + heads), slice(first, first + rows)
