"""Penalties on a Jacobian: random-projection estimates of the squared Jacobian norm at the data."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from lrsegformer.kernels.bilinear import upsampling_transposed
from lrsegformer.kernels.precision import at_least_float32
from lrsegformer.models.decode_head import plain_matrix

if TYPE_CHECKING:
    from lrsegformer.models.decode_head import LRSegformerDecodeHead

# Odd constants of the 64-bit mix of Steele, Lea and Flood 2014 ("Fast splittable pseudorandom number generators"), as
# int64.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
# How far a value of an input is moved each way, in units of normalised pixels (1/440 of their range). Half of it, and
# rounding in float32 shows; five times it, and the slope is another one: docs/layer_formulations.md.
DIFFERENCE_STEP = 1e-2


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
    signs = (_mixed(seeds[:, None], positions) & 1) * 2 - 1
    return signs.float().view(-1, *shape)


def seeds_of_step(seeds: torch.Tensor, step: int) -> torch.Tensor:
    """Other seeds of the same samples for each optimizer step, spread evenly from 0 to 2^63."""
    return _mixed(seeds, torch.tensor(step + 1, dtype=torch.int64, device=seeds.device))


def _mixed(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    state = seeds * _MIX_1 + positions * _STEP
    state = (state ^ (state >> 30)) * _MIX_1
    state = (state ^ (state >> 27)) * _MIX_2
    return state ^ (state >> 31)


def jacobian_penalty(
    function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, seeds: torch.Tensor
) -> torch.Tensor:
    """
    Estimate the squared Frobenius norm of a function's Jacobian at the data, a mean over samples and output positions.

    With independent signs v of unit variance, the expectation of `|v^T J|^2` is `|J|_F^2` (Hutchinson 1989; Hoffman,
    Roberts and Yaida 2019, equation 8, with signs in place of unit vectors). One projection a sample; divided by the
    number of output positions, so that it does not grow with the image. An estimate measured at the data: it bounds
    nothing.

    Args:
        function: maps the inputs to outputs of shape `(batch, labels, ...)`; each output sample has to depend on its
            own input alone, and the function has to be twice differentiable by autograd.
        inputs (`torch.Tensor` of shape `(batch, ...)`): detached here; the penalty moves the function's parameters.
        seeds (`torch.Tensor` of shape `(batch,)`, int64): seeds of the projections, one a sample.

    Returns:
        `torch.Tensor`: a scalar, at least float32, differentiable (by double backward) with respect to the parameters.
    """
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        outputs = function(inputs)
        signs = random_signs(seeds, outputs.shape[1:]).to(outputs.dtype)
        (gradient,) = torch.autograd.grad(outputs, inputs, grad_outputs=signs, create_graph=True)
    positions = outputs[0, 0].numel()
    return at_least_float32(gradient).square().flatten(1).sum(dim=1).mean() / positions


def difference_penalty(
    function: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    seeds: torch.Tensor,
    weights: torch.Tensor | None = None,
    step: float = DIFFERENCE_STEP,
) -> torch.Tensor:
    """
    Estimate what [`jacobian_penalty`] does without differentiating twice: `|f(x + h v) - f(x - h v)|^2 / (2 h)^2` for
    random signs v of the inputs.

    For small h that is `|J v|^2`, whose expectation is `|J|_F^2`, too; the error of the central difference falls with
    the square of h. Two forward passes and one ordinary backward pass through both, of the samples that count.

    Args:
        function: maps the inputs to outputs of shape `(batch, labels, ...)`, each sample by itself; differentiable.
        inputs (`torch.Tensor` of shape `(batch, ...)`): detached here; the penalty moves the function's parameters.
        seeds (`torch.Tensor` of shape `(batch,)`, int64): seeds of the directions, one a sample.
        weights (`torch.Tensor` of shape `(batch,)`, *optional*):
            By which the samples' estimates are multiplied before their mean over the batch; those of weight 0 are not
            computed. By default all count once.
        step (`float`, *optional*): h.

    Returns:
        `torch.Tensor`: a scalar, at least float32, differentiable with respect to the parameters; a constant 0 where
        no sample counts.
    """
    batch, inputs = len(inputs), inputs.detach()
    if weights is not None:
        chosen = weights.nonzero().flatten()
        if not len(chosen):
            return at_least_float32(inputs.new_zeros(()))
        inputs, seeds, weights = inputs[chosen], seeds[chosen], weights[chosen]
    shifts = step * random_signs(seeds, inputs.shape[1:]).to(inputs.dtype)
    with torch.enable_grad():
        ahead, behind = at_least_float32(function(torch.cat([inputs + shifts, inputs - shifts]))).chunk(2)
        squared = ((ahead - behind) / (2 * step)).square().flatten(1).sum(dim=1)
    total = squared.sum() if weights is None else (squared * weights).sum()
    return total / (batch * ahead[0, 0].numel())


def decode_head_jacobian_penalty(
    head: "LRSegformerDecodeHead", features: Sequence[torch.Tensor], fused: torch.Tensor, seeds: torch.Tensor
) -> torch.Tensor:
    """
    [`jacobian_penalty`] of the decode head in eval mode with respect to the stage features, without a second forward
    pass: the head is `classifier(relu(affine(fused)))` with `fused` linear in the features, so its vector-Jacobian
    product is written out, and one backward pass through it is the double backward pass of the head.

    The projections are `v = a b`, with an independent sign `a` for each position and `b` for each row of positions and
    label. All entries have unit variance and no two are correlated, which is all that the expectation needs; and
    `classifier^T v` is formed once a row, not once a position.

    Args:
        head ([`LRSegformerDecodeHead`]): ReLU activation.
        fused (`torch.Tensor` of shape `(batch, decoder_hidden_size, height, width)`):
            What `head.fuse` gave for the features; which ReLUs are open is read from it.
        features: the features of all stages, finest first; only their sizes matter.
        seeds (`torch.Tensor` of shape `(batch,)`, int64): seeds of the projections, one a sample.

    Returns:
        `torch.Tensor`: a scalar, at least float32, differentiable with respect to the head's parameters.
    """
    batch, _, height, width = fused.shape
    at_positions, at_rows = decode_head_signs(seeds, head.config.num_labels, height, width)
    scale, shift = head.eval_affine()
    with torch.no_grad():
        is_open = fused * scale[:, None, None] + shift[:, None, None] > 0
        mask = (is_open * at_positions[:, None]).to(fused.dtype)
    classifier = plain_matrix(head.active_layers().classifier)
    rows = (at_rows.to(classifier.dtype) @ classifier) * scale
    cotangent = mask * rows.transpose(1, 2).to(fused.dtype)[..., None]
    matrices, _ = head.folded_maps()
    squared = torch.zeros(batch, device=fused.device, dtype=classifier.dtype)
    for matrix, feature in zip(matrices, features, strict=True):
        at_scale = upsampling_transposed(cotangent, feature.shape[2:])
        gradient = matrix.T.to(at_scale.dtype) @ at_scale.flatten(2)
        squared = squared + at_least_float32(gradient).square().flatten(1).sum(dim=1)
    return squared.mean() / (height * width)


def decode_head_signs(seeds: torch.Tensor, labels: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The signs a `(batch, height, width)` and b `(batch, height, labels)` whose products are the projections."""
    signs = random_signs(seeds, (height * width + height * labels,))
    at_positions, at_rows = signs.split([height * width, height * labels], dim=1)
    return at_positions.view(-1, height, width), at_rows.view(-1, height, labels)
