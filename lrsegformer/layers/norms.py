"""Operator norms of a matrix, exact up to the rounding of the precision they are computed in."""

import torch

# Covers the rounding of an effective weight to float32, entry by entry within (1 + 2^-24)^2, and of its norm in
# float64 (docs/layer_formulations.md has the proof).
ROUNDING_MARGIN = 1e-5

# Eigenvalues closer together than this share of the largest count as one.
SMALLEST_RELATIVE_GAP = 1e-8

NORMS = ("l2", "linf", "l1")


def linf_norm(matrix: torch.Tensor) -> torch.Tensor:
    """Operator norm from l-infinity to l-infinity: the largest absolute row sum of `matrix` (out, in)."""
    return matrix.abs().sum(dim=1).max()


def l1_norm(matrix: torch.Tensor) -> torch.Tensor:
    """Operator norm from l1 to l1: the largest absolute column sum of `matrix` (out, in)."""
    return matrix.abs().sum(dim=0).max()


def l2_norm(matrix: torch.Tensor) -> torch.Tensor:
    """
    Largest singular value of `matrix` (out, in), in float64 and differentiable.

    The value is the Rayleigh quotient at the top eigenvector of the smaller Gram matrix. Its gradient with respect to
    the matrix is the outer product of the top singular vectors (a subgradient where the top singular value is
    repeated), and it needs no derivative of the eigendecomposition, which is infinite at repeated eigenvalues. Second
    derivatives are those of the norm as long as the top singular value stands alone.

    Args:
        matrix (`torch.Tensor` of shape `(out, in)`):
            Any floating dtype. Entries beyond 1e150 in absolute value would overflow when squared.

    Returns:
        `torch.Tensor`: a float64 scalar, accurate to about 1e-14 of the norm; 0 for a zero matrix, with zero gradient.
    """
    matrix = matrix.double()
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    # Detached, because no_grad does not hold forward mode back.
    values, vectors = torch.linalg.eigh(tall.detach().T @ tall.detach())
    top_vector = _following(vectors[:, -1], tall, values, vectors)
    squared = (tall @ top_vector).square().sum() / top_vector.square().sum()
    # The square root has no derivative at 0: the smallest normal number keeps it finite there.
    return squared.clamp_min(torch.finfo(torch.float64).tiny).sqrt()


def _following(vector: torch.Tensor, tall: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """
    The top eigenvector of `tall^T tall`, with the derivative that it has: `sum_i v_i (v_i^T dG v) / (top - value_i)`.

    The derivative of the Rayleigh quotient with respect to the vector is 0, so the first derivative of the norm does
    without it, and the second does not. Directions whose eigenvalue is not told apart from the top one are left out.
    """
    gaps = values[-1] - values
    apart = gaps > SMALLEST_RELATIVE_GAP * values[-1]
    residual = tall.T @ (tall @ vector) - values[-1] * vector
    change = vectors @ (torch.where(apart, vectors.T @ residual / gaps.where(apart, 1.0), 0.0))
    return vector + (change - change.detach())


def power_iteration_estimate(matrix: torch.Tensor, iterations: int = 20) -> torch.Tensor:
    """
    Estimate the largest singular value of `matrix` (out, in) from below, differentiable; an estimate bounds nothing.

    The start is the column of largest norm, so that the result is a function of the matrix alone: no vectors are
    saved, and none can be stale. The gradient is that of `u^T W v` with the vectors held fixed (Miyato et al. 2018,
    algorithm 1).
    """
    with torch.no_grad():
        # Near 1, so that neither squares nor products of large or tiny entries leave the range of float32.
        unit = matrix.detach() / matrix.detach().abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
        longest = unit.square().sum(dim=0).argmax()
        left = torch.nn.functional.normalize(unit.index_select(1, longest[None])[:, 0], dim=0)
        for _ in range(iterations):
            right = torch.nn.functional.normalize(unit.T @ left, dim=0)
            left = torch.nn.functional.normalize(unit @ right, dim=0)
    return left @ (matrix @ right)


def operator_norm(matrix: torch.Tensor, norm: str) -> torch.Tensor:
    """The operator norm of `matrix` (out, in) in the norm named `"l2"`, `"linf"` or `"l1"`, computed in float64."""
    functions = {"l2": l2_norm, "linf": linf_norm, "l1": l1_norm}
    if norm not in functions:
        raise ValueError(f"Unknown norm {norm!r}: choose one of {', '.join(NORMS)}.")
    return functions[norm](matrix.double())
