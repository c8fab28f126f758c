"""ReLU and dropout in one step of autograd, with cheap random bits on the CPU."""

import torch
from torch.nn import functional

# Dropout probabilities are rounded to multiples of 1 / LEVELS: one 16-bit random number decides on an element.
LEVELS = 2**16


def relu_dropout(inputs: torch.Tensor, probability: float) -> torch.Tensor:
    """
    `F.dropout(F.relu(inputs), probability)` in training mode.

    On the CPU, where drawing a Bernoulli number for each element takes longer than everything else here, the mask is
    made of 64-bit random integers, four elements each, so the probability is rounded to a multiple of 2^-16 (and the
    kept elements are scaled by exactly one over what is kept on average). Only the result is saved for the backward
    pass: it is zero where the ReLU is closed and where an element was dropped, and both stop the gradient.

    Args:
        inputs (`torch.Tensor`): any shape and floating dtype.
        probability (`float`): of an element to be dropped, in [0, 1).
    """
    level = round(probability * LEVELS)
    if level == 0:
        return functional.relu(inputs)
    if inputs.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(functional.relu(inputs), probability)
    return _ReluDropout.apply(inputs, level)


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: torch.Tensor, level: int) -> torch.Tensor:
        ctx.scale = LEVELS / (LEVELS - level)
        kept = _random_int16(inputs.numel()).view(inputs.shape) >= level - LEVELS // 2
        outputs = inputs.clamp_min(0).mul_(kept).mul_(ctx.scale)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (outputs,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, outputs, 0).mul_(ctx.scale), None


def _random_int16(count: int) -> torch.Tensor:
    """`count` independent uniform numbers from torch's generator, int16."""
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count]
