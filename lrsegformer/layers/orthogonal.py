"""orthogonal: every singular value is K, through the Q factor of a Householder QR decomposition."""

import math

import torch

from lrsegformer.errors import InputError
from lrsegformer.kernels.transforms import under_torch_func
from lrsegformer.layers.base import LipschitzConstraint, LipschitzLinear
from lrsegformer.layers.conv import LipschitzConv1x1, LipschitzConv2d
from lrsegformer.layers.conv_norms import group_gains

# The backward pass lifts the singular values of R to at least this share of its Frobenius norm,
SINGULAR_VALUE_GUARD = 1e-5
# and to at least this number, which only the norm of a matrix that is all but zero is below.
SMALLEST_SINGULAR_VALUE = 1e-12


def orthonormal_factor(matrix: torch.Tensor) -> torch.Tensor:
    """
    Q of the reduced Householder QR of a tall matrix, signs chosen so that R's diagonal is not negative (then Q(Q) =
    Q).

    Differentiable any number of times, in reverse mode and under the transformations of `torch.func` (`vmap`,
    `jacrev`, `jacfwd`, `hessian`); see [`OrthonormalFactor`] on what stands for the derivative at a loss of rank.
    """
    if under_torch_func():
        with_derivatives = _factor_by_cholesky(matrix)
        return _householder_factor(matrix).detach() + (with_derivatives - with_derivatives.detach()).to(matrix.dtype)
    return OrthonormalFactor.apply(matrix)


class OrthonormalFactor(torch.autograd.Function):
    """
    [`orthonormal_factor`] with its gradient written out.

    The backward pass is the QR gradient restricted to Q (Walter, Lehmann and Lamour 2012, "On evaluating higher-order
    derivatives of the QR decomposition of tall matrices with full column rank in forward and reverse mode algorithmic
    differentiation"; the formula of `torch.linalg.qr`). It divides by R, which has no inverse where the matrix loses
    rank: the true derivative is infinite there, and a step along a finite direction is what training needs. So R^T is
    replaced by the Cholesky factor of `A^T A + d^2 I` (A the matrix, `A^T A = R^T R`), whose singular values are
    `sqrt(sigma^2 + d^2)`, and the gradient is at most `(1 + sqrt(2)) |G|_F / d`.

    It consists of operations on A and Q that autograd knows, so that it can be differentiated in turn, d held fixed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: torch.Tensor) -> torch.Tensor:
        return _householder_factor(matrix)

    @staticmethod
    def setup_context(ctx, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        matrix, q_factor = ctx.saved_tensors
        product = -(gradient.T @ q_factor)
        symmetric = product.tril() + product.tril(-1).T
        right_side = gradient + q_factor @ symmetric
        guarded = _guarded_factor(matrix.double()).to(gradient.dtype)
        return torch.linalg.solve_triangular(guarded, right_side, upper=False, left=False)


def _householder_factor(matrix: torch.Tensor) -> torch.Tensor:
    q_factor, r_factor = torch.linalg.qr(matrix, mode="reduced")
    return q_factor * torch.where(r_factor.diagonal() < 0, -1.0, 1.0).to(matrix.dtype)


def _factor_by_cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """The same factor in float64 by way of `A^T A`: less exact, but made of operations with all derivatives."""
    wide = matrix.double()
    return torch.linalg.solve_triangular(_guarded_factor(wide).T, wide, upper=True, left=False)


def _guarded_factor(wide: torch.Tensor) -> torch.Tensor:
    """The lower triangular factor that stands for R^T, in float64: squaring doubles the range of singular values."""
    floor = (SINGULAR_VALUE_GUARD * wide.detach().norm()).clamp_min(SMALLEST_SINGULAR_VALUE)
    identity = torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
    return torch.linalg.cholesky_ex(wide.T @ wide + floor.square() * identity)[0]


def _semi_orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """[`orthonormal_factor`] of a matrix, or of its transpose where it is wide."""
    rows, columns = matrix.shape
    return orthonormal_factor(matrix) if rows >= columns else orthonormal_factor(matrix.T).T


def _polar_factor(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix whose singular values are all 1."""
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (left @ right).to(matrix.dtype)


def _largest_singular_value(matrix: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    """A bound for a matrix all of whose singular values are about `constant`; both in float64."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    squared = constant.square()
    excess = (tall.T @ tall - squared * torch.eye(tall.shape[1], dtype=tall.dtype, device=tall.device)).norm()
    return (squared + excess).sqrt()


class OrthogonalConstraint(LipschitzConstraint):
    """
    K times the Q factor of the Householder QR of the raw weight (of its transpose when the layer is wide); K is fixed.

    Every singular value of the effective weight is K, so K is not only a bound of the l2 norm but its value. The Q
    factor does not change when the weight is multiplied by a positive number, which makes it indifferent to weight
    decay. A plain weight is replaced by its orthogonal polar factor at the start, the nearest orthogonal matrix.

    Rounding in float32 moves singular values by about 1e-6 of K, and by up to `1e-7 * max(rows, columns)` where
    columns are equal (measured, not proven). `lipschitz_bound` measures what it did to the weight at hand.

    Args:
        constant (`float`, *optional*, defaults to 1.0): K.

    Source: Golub and Van Loan, *Matrix Computations*, section 5.2 (Householder QR) and 9.4.3 (polar factor).
    """

    strategy = "orthogonal"

    def setup(self, device: torch.device | str | None = None, constant: float = 1.0) -> None:
        if not (isinstance(constant, int | float) and 0 < constant < math.inf):
            raise InputError(f"orthogonal's option constant is a finite number above 0, not {constant!r}.")
        self.requested_constant = float(constant)
        self._add_constant(device)

    def constant(self) -> torch.Tensor:
        return self.c

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        return _semi_orthonormal(matrix) * self.constant().to(matrix.dtype)

    def constant_bound(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        """
        K times the larger of `1 + 1e-5` and what the computed factor Q really deviates from orthonormality by.

        The squared singular values of Q are at most `1 + |Q^T Q - I|_2`, and the Frobenius norm is no smaller: nothing
        is assumed of the rounding inside the decomposition.
        """
        bound = super().constant_bound(row_scale)
        matrix = self.effective_weight(row_scale).double()
        return torch.maximum(bound, _largest_singular_value(matrix, self.constant().double()))

    def start_constant(self, matrix: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.requested_constant, device=matrix.device)

    def start_weight(self, matrix: torch.Tensor) -> torch.Tensor:
        return _polar_factor(matrix)


class OrthogonalLipschitzConv1x1(OrthogonalConstraint, LipschitzConv1x1):
    __doc__ = OrthogonalConstraint.__doc__


class OrthogonalLipschitzConv2d(OrthogonalConstraint, LipschitzConv2d):
    """
    As [`OrthogonalConstraint`], of each group's reshaped kernel, divided by the square root of the number of kernel
    positions that cover an input pixel: K bounds the l2 norm. Where none overlap (a kernel as large as its stride)
    every singular value of the convolution is K, or 0 at pixels that it leaves out.

    An overlapping convolution with one row or one column a group, such as a depthwise one, has no orthonormal kernel
    but shifts: there each group's kernel is divided by its largest gain over all frequencies, so that every group has
    the norm K, to within the 1 % by which that gain is bounded from above.
    """

    def constrain(self, matrix: torch.Tensor) -> torch.Tensor:
        constant = self.constant().to(matrix.dtype)
        if self._scales_groups():
            gains = group_gains(self.kernel(matrix), self.stride, self.groups).clamp_min(SMALLEST_SINGULAR_VALUE)
            return (
                matrix.unflatten(0, (self.groups, -1)) * (constant / gains)[:, None, None].to(matrix.dtype)
            ).flatten(0, 1)
        factors = [_semi_orthonormal(group) for group in matrix.chunk(self.groups)]
        return torch.cat(factors) * (constant / math.sqrt(self.overlap()))

    def constant_bound(self, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        bound = LipschitzConv2d.constant_bound(self, row_scale)
        if self._scales_groups():
            return bound
        groups = self.effective_weight(row_scale).double().chunk(self.groups)
        constant = self.constant().double() / math.sqrt(self.overlap())
        largest = torch.stack([_largest_singular_value(group, constant) for group in groups]).max()
        return torch.maximum(bound, largest * math.sqrt(self.overlap()))

    def start_weight(self, matrix: torch.Tensor) -> torch.Tensor:
        if self._scales_groups():
            return matrix
        return torch.cat(
            [super(OrthogonalLipschitzConv2d, self).start_weight(group) for group in matrix.chunk(self.groups)]
        )

    def _scales_groups(self) -> bool:
        rows, columns = self.out_channels // self.groups, self.in_channels // self.groups
        return self.overlap() > 1 and min(rows, columns * self.stride[0] * self.stride[1]) == 1


class OrthogonalLipschitzLinear(OrthogonalConstraint, LipschitzLinear):
    __doc__ = OrthogonalConstraint.__doc__
    conv1x1_class = OrthogonalLipschitzConv1x1
    conv2d_class = OrthogonalLipschitzConv2d
