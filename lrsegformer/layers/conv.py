"""The convolutions that keep the contract of Lipschitz layers: of any geometry, and 1x1."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from lrsegformer.errors import InputError
from lrsegformer.layers.base import ADVICE_ON_ADAPTERS, LipschitzConstraint, copy_tensors
from lrsegformer.layers.conv_norms import column_sums, convolution_l2_norm, overlap
from lrsegformer.layers.merged_maps import LayerMapsMixin


class LipschitzConv2d(LayerMapsMixin, LipschitzConstraint, nn.Conv2d):
    """
    `nn.Conv2d` with a bounded operator norm, zero-padded, of any kernel, stride and groups (depthwise, too): the twin
    of [`LipschitzLinear`].

    Bounds are those of the convolution as a map between images of any size, stride and overlap included, not of its
    reshaped kernel ([`~lrsegformer.layers.conv_norms`]). `effective_weight()` is the reshaped kernel
    `(out_channels, in_channels / groups * height * width)`.

    Args:
        in_channels (`int`): channels of the input.
        out_channels (`int`): channels of the output.
        kernel_size (`int` or pair of `int`): height and width of the kernel.
        stride, padding, groups (*optional*): as `nn.Conv2d` has them; the bound holds for any padding by zeros.
        bias (`bool`, *optional*, defaults to `True`): whether the layer adds a learned bias (never constrained).
        options: options of the strategy, by keyword.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        groups: int = 1,
        bias: bool = True,
        device=None,
        dtype=None,
        **options,
    ):
        geometry = {"stride": stride, "padding": padding, "groups": groups, "bias": bias}
        super().__init__(in_channels, out_channels, kernel_size, **geometry, device=device, dtype=dtype)
        self.setup(device=device, **options)
        if not self.weight.is_meta:
            self.start_from_weight()

    def kernel(self, matrix: torch.Tensor) -> torch.Tensor:
        """`matrix` `(out, in / groups * height * width)` in the shape of `weight`."""
        return matrix.unflatten(1, (self.in_channels // self.groups, *self.kernel_size))

    def overlap(self) -> int:
        """The largest number of kernel positions that cover one input pixel."""
        return overlap(self.kernel_size, self.stride)

    def column_sums(self, matrix: torch.Tensor) -> torch.Tensor:
        return column_sums(self.kernel(matrix), self.stride, self.groups).flatten(1)

    def map_norm(self, matrix: torch.Tensor, norm: str) -> torch.Tensor:
        if norm == "l2":
            return convolution_l2_norm(self.kernel(matrix), self.stride, self.groups)
        if norm == "l1":
            return self.column_sums(matrix).max()
        return super().map_norm(matrix, norm)

    def norm_is_exact(self, norm: str) -> bool:
        """Of linf and l1, and of l2 where kernel positions do not overlap: the supremum over all sizes of images."""
        return norm != "l2" or self.overlap() == 1

    def estimated_l2_norm(self, matrix: torch.Tensor) -> torch.Tensor:
        """By power iteration on the reshaped kernel; of several groups the bound, as their norms are cheap."""
        if self.groups > 1:
            return self.map_norm(matrix, "l2")
        return super().estimated_l2_norm(matrix) * math.sqrt(self.overlap())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dtype = self._multiplied_dtype(inputs)
        bias = None if self.bias is None else self.bias.to(dtype)
        weight = self.kernel(self.multiplied_weight().to(dtype))
        return nn.functional.conv2d(inputs, weight, bias, self.stride, self.padding, groups=self.groups)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options) -> "LipschitzConv2d":
        """
        A layer that starts as close to `conv` as the constraint allows; the weights are copied.

        Raises:
            [`~lrsegformer.errors.InputError`]: for a dilated convolution, or one that pads by something else than
            zeros.
        """
        if conv.padding_mode != "zeros" or any(step != 1 for step in conv.dilation):
            raise InputError(
                f"a convolution with padding_mode {conv.padding_mode!r} and dilation {tuple(conv.dilation)} has no "
                "constrained twin: give one with padding_mode 'zeros' and dilation 1."
            )
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            groups=conv.groups,
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=torch.promote_types(conv.weight.dtype, torch.float32),
            **options,
        )
        copy_tensors(conv.weight, conv.bias, layer)
        layer.start_from_weight()
        return layer

    def to_conv(self) -> nn.Conv2d:
        """A plain `nn.Conv2d` with the effective weight: the same outputs, nothing constrained any more."""
        weight = self.kernel(self.effective_weight().detach())
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            bias=self.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        return copy_tensors(weight, self.bias, plain)


class LipschitzConv1x1(LipschitzConstraint, nn.Conv2d):
    """
    1x1 `nn.Conv2d` with a bounded operator norm: the twin of [`LipschitzLinear`], applied to every pixel's channels.

    Args:
        in_channels (`int`): channels of the input.
        out_channels (`int`): channels of the output.
        bias (`bool`, *optional*, defaults to `True`): whether the layer adds a learned bias (never constrained).
        options: options of the strategy, by keyword.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *geometry, bias: bool = True, device=None, dtype=None, **options
    ):
        if geometry:
            # What peft makes of the class of a convolution that it puts an adapter beside.
            raise InputError(
                f"{type(self).__name__} is a 1x1 convolution and takes no kernel size, stride or padding. If this is "
                f"an adapter of peft on the head: it would lie outside its constraint, so {ADVICE_ON_ADAPTERS}"
            )
        super().__init__(in_channels, out_channels, kernel_size=1, bias=bias, device=device, dtype=dtype)
        self.setup(device=device, **options)
        if not self.weight.is_meta:
            self.start_from_weight()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dtype = self._multiplied_dtype(inputs)
        bias = None if self.bias is None else self.bias.to(dtype)
        weight = self.effective_weight().to(dtype)
        return nn.functional.conv2d(inputs, weight[:, :, None, None], bias)
