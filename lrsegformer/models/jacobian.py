"""The penalty of jacobian_norm: a random-projection estimate of the head's squared Jacobian norm at the data."""

from collections.abc import Callable, Sequence

import torch

# Odd constants of the 64-bit mix of Steele, Lea and Flood 2014 ("Fast splittable pseudorandom number generators"), as
# int64.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def sample_seeds(pixel_values: torch.Tensor) -> torch.Tensor:
    """
    One int64 seed a sample, from the bits of its pixels: the same however the samples are batched or sharded.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): any floating dtype.
    """
    bits = pixel_values.detach().float().contiguous().view(torch.int32)
    return bits.flatten(1).sum(dim=1, dtype=torch.int64)


def random_signs(seeds: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """
    Independent fair signs, a counter-based hash of (seed, position), without a generator's state.

    Args:
        seeds (`torch.Tensor` of shape `(batch,)`, int64): one a sample.
        shape: the shape of one sample.

    Returns:
        `torch.Tensor` of shape `(batch, *shape)`, float32, entries -1 and 1.
    """
    count = 1
    for size in shape:
        count *= size
    positions = torch.arange(1, count + 1, device=seeds.device, dtype=torch.int64)
    state = seeds[:, None] * _MIX_1 + positions * _STEP
    state = (state ^ (state >> 30)) * _MIX_1
    state = (state ^ (state >> 27)) * _MIX_2
    state = state ^ (state >> 31)
    signs = (state & 1) * 2 - 1
    return signs.float().view(-1, *shape)


def jacobian_penalty(
    head: Callable[[Sequence[torch.Tensor]], torch.Tensor], features: Sequence[torch.Tensor], seeds: torch.Tensor
) -> torch.Tensor:
    """
    Estimate the squared Frobenius norm of the head's Jacobian at the data, a mean over samples and output positions.

    With independent signs v of unit variance, the expectation of `|v^T J|^2` is `|J|_F^2` (Hutchinson 1989; Hoffman,
    Roberts and Yaida 2019, equation 8, with signs in place of unit vectors). One projection a sample; divided by the
    number of output positions, so that it does not grow with the image. An estimate measured at the data: it bounds
    nothing.

    Args:
        head: maps the features to outputs of shape `(batch, labels, ...)`; each output sample has to depend on its own
            features alone.
        features: the head's inputs, each `(batch, ...)`. They are detached: the penalty moves the head, not the
        encoder.
        seeds (`torch.Tensor` of shape `(batch,)`, int64): seeds of the projections, one a sample.

    Returns:
        `torch.Tensor`: a float32 scalar, differentiable (by double backward) with respect to the head's parameters.
    """
    inputs = [feature.detach().requires_grad_() for feature in features]
    with torch.enable_grad():
        outputs = head(inputs)
        signs = random_signs(seeds, outputs.shape[1:]).to(outputs.dtype)
        gradients = torch.autograd.grad(outputs, inputs, grad_outputs=signs, create_graph=True)
    positions = outputs[0, 0].numel()
    squared = sum(gradient.float().square().flatten(1).sum(dim=1) for gradient in gradients)
    return squared.mean() / positions
