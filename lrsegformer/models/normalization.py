"""BatchNorm under a constraint: the mean adapts, the variance is frozen, the scale moves into the fuse convolution."""

import torch
from torch import nn

from lrsegformer.kernels.precision import at_least_float32

# Keeps the division by the scale finite where gamma is 0.
SMALLEST_SCALE = 1e-12


class CenteringBatchNorm2d(nn.BatchNorm2d):
    """
    `nn.BatchNorm2d` whose scale is applied by the convolution before it, inside that convolution's constraint.

    Plain BatchNorm divides by the batch's standard deviation and so undoes any shrinking of the maps before it: their
    constants can fall at unchanged outputs. Here `running_var` is frozen, [`row_scale`] = `weight / sqrt(running_var +
    eps)` multiplies the raw weight of the convolution, and `forward` only subtracts the mean and adds the bias. In
    eval mode, and where the constraint is inactive, the result is that of `nn.BatchNorm2d` with the same tensors.

    The tensors are the stock ones. `running_mean` is kept in the units of the convolution without the scale, as
    BatchNorm has it.
    """

    def row_scale(self) -> torch.Tensor:
        """Factors `(channels,)`, at least float32, of the rows of the convolution before this layer."""
        scale = at_least_float32(self.weight) * torch.rsqrt(at_least_float32(self.running_var) + self.eps)
        tiny = torch.full_like(scale, SMALLEST_SCALE)
        return torch.where(scale.abs() < SMALLEST_SCALE, torch.copysign(tiny, scale), scale)

    def shift(self) -> torch.Tensor:
        """What eval mode adds to the scaled convolution: `bias - row_scale * running_mean`, at least float32."""
        return at_least_float32(self.bias) - self.row_scale() * at_least_float32(self.running_mean)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Centre `hidden_states` `(batch, channels, height, width)`, the output of the scaled convolution."""
        mean = at_least_float32(hidden_states).mean(dim=(0, 2, 3)) if self.training else None
        return hidden_states + self.centring_shift(mean).to(hidden_states.dtype)[:, None, None]

    def centring_shift(self, mean: torch.Tensor | None) -> torch.Tensor:
        """
        What to add to the scaled convolution whose mean over batch and pixels is `mean` `(channels,)`.

        In training mode that mean is subtracted, and `running_mean` follows it with the layer's momentum; in eval mode
        it is not looked at.
        """
        if not self.training:
            return self.shift()
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unscaled = (mean / self.row_scale()).to(self.running_mean.dtype)
            self.running_mean.lerp_(unscaled, self.momentum)
        return at_least_float32(self.bias) - mean
