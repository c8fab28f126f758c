"""
Algorithms for the layers that were considered and not chosen; `layers.py` times them beside the chosen ones.

Two families, each a differentiable function of a raw (out, in) matrix: the largest singular value, and an orthonormal
factor (orthonormal columns where the matrix is tall, rows where it is wide). [`check_alternatives`] holds each to what
it is meant to compute.
"""

from collections.abc import Callable, Iterator

import torch
from peers import (
    ALL_SINGULAR_VALUES,
    ESTIMATE,
    EXACT_ARITHMETIC,
    LARGEST_SINGULAR_VALUE,
    Candidate,
)
from torch import nn

# 12 squarings give the Schatten norm of order 2^14: within a factor rank^(1 / 2^14) of the largest singular value.
GRAM_SQUARINGS = 12
LARGEST_RESIDUAL = {torch.float32: 1e-5, torch.float64: 1e-12}
MOST_POLAR_STEPS = 100

MatrixFunction = Callable[[torch.Tensor], torch.Tensor]


def gram_iteration(matrix: torch.Tensor) -> torch.Tensor:
    """
    Upper bound of the largest singular value by repeated squaring of the Gram matrix, in float64.

    After t squarings the Frobenius norm of G = (W^T W)^(2^t), to the power 2^-(t+1), is the Schatten norm of W of
    order 2^(t+2): never below the largest singular value. Each G is divided by its norm, and the logarithms of the
    divisors are summed with the weight that the root leaves them.

    Source: Delattre et al. 2023, "Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration"
    (arXiv 2305.16173), for a dense matrix.
    """
    tall = _tall(matrix.double())
    gram = tall.T @ tall
    logarithm = gram.new_zeros(())
    for step in range(GRAM_SQUARINGS):
        norm = torch.linalg.matrix_norm(gram)
        logarithm = logarithm + norm.log() / 2 ** (step + 1)
        gram = gram / norm
        gram = gram @ gram
    return (logarithm + torch.linalg.matrix_norm(gram).log() / 2 ** (GRAM_SQUARINGS + 1)).exp()


def eigvalsh_norm(matrix: torch.Tensor) -> torch.Tensor:
    """Largest singular value: root of the largest eigenvalue of the smaller Gram matrix, by autograd, in float64."""
    tall = _tall(matrix.double())
    return torch.linalg.eigvalsh(tall.T @ tall)[-1].sqrt()


def svdvals_norm(matrix: torch.Tensor) -> torch.Tensor:
    """Largest singular value by the singular value decomposition, by autograd, in float64."""
    return torch.linalg.svdvals(matrix.double())[0]


def newton_schulz_polar(matrix: torch.Tensor) -> torch.Tensor:
    """
    Orthonormal polar factor by the cubic Newton-Schulz iteration `X <- X (3 I - X^T X) / 2`.

    The start is divided by sqrt(l1 norm * linf norm), which is no less than the largest singular value, as the
    iteration needs. It stops when no entry of `X^T X - I` is above the rounding of the dtype.

    Source: Higham 2008, *Functions of Matrices*, section 8.3.

    Raises:
        `RuntimeError`: if 100 steps are not enough, which takes a nearly rank-deficient matrix.
    """
    tall = _tall(matrix)
    norms = tall.abs().sum(0).max() * tall.abs().sum(1).max()
    factor = tall / norms.sqrt()
    identity = torch.eye(tall.shape[1], dtype=tall.dtype, device=tall.device)
    for _ in range(MOST_POLAR_STEPS):
        gram = factor.T @ factor
        if (gram.detach() - identity).abs().max() <= LARGEST_RESIDUAL[matrix.dtype]:
            return _like(factor, matrix)
        factor = factor @ (1.5 * identity - 0.5 * gram)
    raise RuntimeError(f"Newton-Schulz did not converge in {MOST_POLAR_STEPS} steps.")


def compact_householder(matrix: torch.Tensor) -> torch.Tensor:
    """
    First columns of a product of Householder reflections whose vectors V are the lower triangle of the raw matrix.

    `H_1 ... H_k = I - V T V^T` with `T^-1 = strictly upper part of V^T V + half its diagonal`, so that everything is
    matrix products and one triangular solve.

    Source: Joffrain et al. 2006, "Accumulating Householder Transformations, Revisited" (ACM TOMS 32).
    """
    vectors = _tall(matrix).tril()
    gram = vectors.T @ vectors
    triangle = gram.triu(1) + torch.diag(0.5 * gram.diagonal())
    columns = vectors.shape[1]
    solved = torch.linalg.solve_triangular(triangle, vectors[:columns].T, upper=True)
    identity = torch.eye(*vectors.shape, dtype=matrix.dtype, device=matrix.device)
    return _like(identity - vectors @ solved, matrix)


def float64_qr(matrix: torch.Tensor) -> torch.Tensor:
    """Q of the Householder QR in float64 with a positive diagonal of R, and torch's own gradient."""
    q_factor, r_factor = torch.linalg.qr(_tall(matrix.double()), mode="reduced")
    signs = torch.where(r_factor.diagonal() < 0, -1.0, 1.0).to(q_factor.dtype)
    return _like((q_factor * signs).to(matrix.dtype), matrix)


SIGMAS: dict[str, MatrixFunction] = {
    "Gram iteration": gram_iteration,
    "eigvalsh": eigvalsh_norm,
    "svdvals": svdvals_norm,
}
ORTHONORMAL_FACTORS: dict[str, MatrixFunction] = {
    "Newton-Schulz polar": newton_schulz_polar,
    "compact WY, explicit reflectors": compact_householder,
    "float64 QR, torch's gradient": float64_qr,
}


class AlternativeLinear(nn.Linear):
    """A linear layer without bias whose effective weight is `function` of its raw weight."""

    def __init__(self, in_features: int, out_features: int, function: MatrixFunction, orthonormal_start: bool) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.function = function
        if orthonormal_start:
            nn.init.orthogonal_(self.weight)

    def effective_weight(self) -> torch.Tensor:
        return self.function(self.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.effective_weight())


def alternative_layers() -> Iterator[Candidate]:
    """The algorithms as layers; those for sigma divide the raw weight by it."""
    for name, sigma in SIGMAS.items():
        yield _alternative(f"sigma: {name}", LARGEST_SINGULAR_VALUE, EXACT_ARITHMETIC, _divided_by(sigma), False)
    for name, factor in ORTHONORMAL_FACTORS.items():
        guarantee = ESTIMATE if factor is newton_schulz_polar else EXACT_ARITHMETIC
        yield _alternative(f"orthogonal: {name}", ALL_SINGULAR_VALUES, guarantee, factor, True)


def check_alternatives() -> None:
    """
    Hold every algorithm to its purpose, in float64 at tall, wide and square shapes.

    Raises:
        `AssertionError`: naming the algorithm that does not compute what it should.
    """
    generator = torch.Generator().manual_seed(0)
    for shape in ((48, 16), (16, 48), (32, 32)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        true_norm = torch.linalg.matrix_norm(matrix, 2)
        for name, sigma in SIGMAS.items():
            ratio = float(sigma(matrix) / true_norm)
            assert 1 - 1e-12 < ratio < (1.001 if sigma is gram_iteration else 1 + 1e-12), (name, shape, ratio)
        for name, factor in ORTHONORMAL_FACTORS.items():
            tall = _tall(factor(matrix))
            residual = float((tall.T @ tall - torch.eye(min(shape), dtype=torch.float64)).abs().max())
            assert tall.shape == _tall(matrix).shape and residual < 1e-10, (name, shape, residual)


def _alternative(
    name: str, constraint: str, guarantee: str, function: MatrixFunction, orthonormal_start: bool
) -> Candidate:
    return Candidate(
        name=name,
        source="alternative",
        constraint=constraint,
        guarantee=guarantee,
        build=lambda inputs, outputs: AlternativeLinear(inputs, outputs, function, orthonormal_start),
        weight=lambda layer: layer.effective_weight(),
    )


def _divided_by(sigma: MatrixFunction) -> MatrixFunction:
    return lambda matrix: (matrix.double() / sigma(matrix)).to(matrix.dtype)


def _tall(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


def _like(tall: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`tall` turned back to the shape of the matrix it was made from."""
    return tall if tall.shape == matrix.shape else tall.T
