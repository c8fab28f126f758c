"""The contract that every Lipschitz layer keeps, and the linear layer."""

from typing import ClassVar, TypeVar

import torch
from torch import nn

from lrsegformer.kernels.precision import at_least_float32, without_autocast
from lrsegformer.layers.merged_maps import LayerMapsMixin
from lrsegformer.layers.norms import ROUNDING_MARGIN, operator_norm, power_iteration_estimate

PlainLayer = TypeVar("PlainLayer", nn.Linear, nn.Conv2d)
ADVICE_ON_ADAPTERS = (
    "adapt the encoder alone (target_modules=['q_proj', 'v_proj'], or 'all-linear' with "
    "exclude_modules='.*decode_head.*' or ['classifier']) and train the head whole: modules_to_save=['decode_head'] "
    "for segmentation, ['classifier'] for classification."
)


class LipschitzConstraint(nn.Module):
    """
    A linear map whose operator norm is bounded: the part that linear layers and convolutions share.

    `weight` has the name and shape of the plain layer and holds the *raw* weight. The matrix that `forward` multiplies
    by, the *effective weight*, is a pure function of `weight` and of the scalar `c` (a parameter where the constant is
    learned, a buffer where it is fixed, absent where a strategy has no constant).

    A strategy defines `constrain` and `constant`, and where it needs them `setup`, `start_constant` and
    `start_weight`.

    Attributes:
        strategy (`str`): name in the registry.
        norm (`str`): the norm that [`lipschitz_bound`] bounds: `"l2"`, `"linf"` or `"l1"`.
        learns_constant (`bool`): whether `c` is a parameter, and therefore part of the network's penalty.
        limits_norm (`bool`): whether the constraint limits the norm (False: the bound is true, but nothing holds it
        down).
        penalized_jacobian (`str`, *optional*): whose Jacobian at the data is the penalty, `"head"` or `"network"`;
            `None` where the penalty is made of the learned constants, if there are any.
    """

    strategy: ClassVar[str]
    norm: str = "l2"
    learns_constant: ClassVar[bool] = False
    limits_norm: ClassVar[bool] = True
    penalized_jacobian: str | None = None
    weight: nn.Parameter
    bias: nn.Parameter | None

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        """Map a raw `(out, in)` matrix in float32 or float64 to the effective one, differentiably."""
        raise NotImplementedError(f"{type(self).__name__} does not define its constraint.")

    def constant(self) -> torch.Tensor:
        """The constant K > 0 that bounds the effective weight in exact arithmetic (scalar, differentiable)."""
        raise NotImplementedError(f"{type(self).__name__} has no constant.")

    def start_constant(self, matrix: torch.Tensor) -> torch.Tensor | None:
        """The value of `c` at which `constrain(matrix)` is closest to `matrix`; `None` for a layer without `c`."""
        return None

    def start_weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """The raw matrix to start from, given a plain layer's `matrix`."""
        return matrix

    def raw_matrix(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The raw weight as an `(out, in)` matrix of at least float32, its rows times `row_scale` where given."""
        matrix = at_least_float32(self.weight.flatten(1))
        return matrix if row_scale is None else matrix * row_scale.to(matrix.dtype)[:, None]

    def row_sums(self, matrix: torch.Tensor) -> torch.Tensor:
        """The absolute row sums of the map's matrix in float64, of a shape that broadcasts with `matrix`."""
        return matrix.abs().sum(dim=1, keepdim=True, dtype=torch.float64)

    def column_sums(self, matrix: torch.Tensor) -> torch.Tensor:
        """The absolute column sums of the map's matrix in float64, of a shape that broadcasts with `matrix`."""
        return matrix.abs().sum(dim=0, keepdim=True, dtype=torch.float64)

    def map_norm(self, matrix: torch.Tensor, norm: str) -> torch.Tensor:
        """
        The operator norm of the map that multiplies by `matrix`, float64 scalar, or where [`norm_is_exact`] says no, a
        proven upper bound of it.
        """
        return operator_norm(matrix, norm)

    def norm_is_exact(self, norm: str) -> bool:
        """Whether [`map_norm`] is the operator norm itself."""
        return True

    def estimated_l2_norm(self, matrix: torch.Tensor) -> torch.Tensor:
        """An estimate of the l2 operator norm, cheaper than [`map_norm`] for wide layers; it bounds nothing."""
        return power_iteration_estimate(matrix)

    def effective_weight(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        """
        The matrix that `forward` multiplies by.

        Args:
            row_scale (`torch.Tensor` of shape `(out_features,)`, *optional*):
                Factors of the rows of the raw weight, applied before the constraint, so that the constant bounds the
                product: the decode head passes the scale of its normalisation here.

        Returns:
            `torch.Tensor` of shape `(out_features, in_features)`, float32 (float64 if the layer is), differentiable
            with respect to `weight`, `c` and `row_scale`. Computed outside autocast.
        """
        with without_autocast(self.weight.device.type):
            return self.constrain(self.raw_matrix(row_scale))

    def lipschitz_bound(self, row_scale: torch.Tensor | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        """
        A guaranteed upper bound of the operator norm, in the norm named by `norm`, of the matrix that `forward`
        multiplies by.

        In float32 and float64 that is `effective_weight(row_scale)`, and the bound is the constant times `1 + 1e-5`,
        which covers the rounding of the effective weight. In a lower precision the norm of the cast effective weight
        is computed, and the larger of the two is returned: `forward` multiplies in the precision of its inputs.
        Rounding of the products and sums inside `forward` is not covered.

        Args:
            row_scale (`torch.Tensor` of shape `(out_features,)`, *optional*): see [`effective_weight`].
            dtype (`torch.dtype`, *optional*):
                The precision in which `forward` multiplies. By default autocast's, where autocast is on, and
                otherwise that of `weight`.

        Returns:
            `torch.Tensor`: a differentiable scalar of at least float32; infinite where the cast overflows.
        """
        dtype = self._multiplied_dtype() if dtype is None else dtype
        bound = self.constant_bound(row_scale)
        if dtype not in (torch.float32, torch.float64):
            bound = torch.maximum(bound, self.computed_bound(self.effective_weight(row_scale).to(dtype)))
        return bound

    def constant_bound(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        """The bound in float32 and float64; see [`lipschitz_bound`]."""
        # A constant stored in lower precision would lose the margin to rounding.
        return at_least_float32(self.constant()) * (1 + ROUNDING_MARGIN)

    def computed_bound(self, matrix: torch.Tensor) -> torch.Tensor:
        """A bound of the operator norm of `matrix` in the norm named by `norm`: computed in float64, then widened."""
        norm = self.map_norm(matrix.nan_to_num(), self.norm)
        # A matrix that overflowed in a cast has no norm.
        return torch.where(torch.isfinite(matrix).all(), norm * (1 + ROUNDING_MARGIN), torch.inf)

    @torch.no_grad()
    def start_from_weight(self, row_scale: torch.Tensor | None = None) -> None:
        """
        Set `c`, and where the strategy asks for it `weight`, from the plain weight that `weight` holds now, so that
        `effective_weight(row_scale)` is as close as the constraint allows to the plain weight with its rows scaled.
        """
        matrix = self.raw_matrix(row_scale)
        started = self.start_weight(matrix)
        if started is not matrix:
            raw = started if row_scale is None else started / row_scale.to(started.dtype)[:, None]
            self.weight.copy_(raw.view_as(self.weight))
        value = self.start_constant(started)
        if value is not None:
            self.c.copy_(value)

    def setup(self, device: torch.device | str | None = None) -> None:
        """Add what the strategy stores (`c`). A strategy with options extends this with keyword arguments."""

    def _multiplied_dtype(self, inputs: torch.Tensor | None = None) -> torch.dtype:
        """
        The precision of the product: autocast's, or that of the inputs (of the weight, where there are none).

        The effective weight is cast to it once; through another precision it would be rounded twice.
        """
        device_type = self.weight.device.type
        if torch.is_autocast_enabled(device_type) and (inputs is None or inputs.dtype != torch.float64):
            return torch.get_autocast_dtype(device_type)
        return self.weight.dtype if inputs is None else inputs.dtype

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, strategy={self.strategy}, norm={self.norm}"

    def _add_constant(self, device: torch.device | str | None = None) -> None:
        """Register `c` in float32, as a parameter or a buffer."""
        value = torch.zeros((), dtype=torch.float32, device=device)
        if self.learns_constant:
            self.c = nn.Parameter(value)
        else:
            self.register_buffer("c", value)


class LipschitzLinear(LayerMapsMixin, LipschitzConstraint, nn.Linear):
    """
    `nn.Linear` with a bounded operator norm; base of the strategies' linear layers.

    Args:
        in_features (`int`): size of each input sample.
        out_features (`int`): size of each output sample.
        bias (`bool`, *optional*, defaults to `True`): whether the layer adds a learned bias (never constrained).
        options: options of the strategy, by keyword.
    """

    # Its twins in conv.py.
    conv1x1_class: ClassVar[type[LipschitzConstraint]]
    conv2d_class: ClassVar[type[LipschitzConstraint]]

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None, **options):
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.setup(device=device, **options)
        if not self.weight.is_meta:
            self.start_from_weight()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dtype = self._multiplied_dtype(inputs)
        bias = None if self.bias is None else self.bias.to(dtype)
        return nn.functional.linear(inputs, self.multiplied_weight().to(dtype), bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options) -> "LipschitzLinear":
        """A layer that starts as close to `linear` as the constraint allows; the weights are copied."""
        has_bias = linear.bias is not None
        placement = {
            "device": linear.weight.device,
            "dtype": torch.promote_types(linear.weight.dtype, torch.float32),
        }
        layer = cls(linear.in_features, linear.out_features, bias=has_bias, **placement, **options)
        copy_tensors(linear.weight, linear.bias, layer)
        layer.start_from_weight()
        return layer

    def to_linear(self) -> nn.Linear:
        """A plain `nn.Linear` with the effective weight: the same outputs, nothing constrained any more."""
        weight = self.effective_weight().detach()
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, weight.device, weight.dtype)
        return copy_tensors(weight, self.bias, plain)


def stepped_up(c: torch.Tensor) -> torch.Tensor:
    """
    The next larger `c` that a constant made of it can tell apart.

    Near `c = 0` neighbouring floats are far closer together than the constants they give (`exp(c)` is near 1), and
    single steps between them would be millions.
    """
    return torch.maximum(torch.nextafter(c, torch.full_like(c, torch.inf)), c + torch.finfo(c.dtype).eps)


@torch.no_grad()
def copy_tensors(weight: torch.Tensor, bias: torch.Tensor | None, layer: PlainLayer) -> PlainLayer:
    """Copy a weight and a bias into `layer`, and return it."""
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer
