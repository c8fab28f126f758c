"""Operator norms of a matrix, exact up to the rounding of the precision they are computed in."""

import torch

# Covers the rounding of an effective weight to float32, entry by entry within (1 + 2^-24)^2, and of its norm in
# float64 (docs/layer_formulations.md has the proof).
ROUNDING_MARGIN = 1e-5

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
    repeated), and it needs no derivative of the eigendecomposition, which is infinite at repeated eigenvalues.

    Args:
        matrix (`torch.Tensor` of shape `(out, in)`):
            Any floating dtype. Entries beyond 1e150 in absolute value would overflow when squared.

    Returns:
        `torch.Tensor`: a float64 scalar, accurate to about 1e-14 of the norm; 0 for a zero matrix, with zero gradient.
    """
    matrix = matrix.double()
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    with torch.no_grad():
        _, vectors = torch.linalg.eigh(tall.T @ tall)
        top_vector = vectors[:, -1]
    squared = (tall @ top_vector).square().sum()
    # The square root has no derivative at 0: the smallest normal number keeps it finite there.
    return squared.clamp_min(torch.finfo(torch.float64).tiny).sqrt()


def power_iteration_estimate(matrix: torch.Tensor, iterations: int = 20) -> torch.Tensor:
    """
    Estimate the largest singular value of `matrix` (out, in) from below, differentiable; an estimate bounds nothing.

    The start is the column of largest norm, so that the result is a function of the matrix alone: no vectors are
    saved, and none can be stale. The gradient is that of `u^T W v` with the vectors held fixed (Miyato et al. 2018,
    algorithm 1).
    """
    with torch.no_grad():
        # Near 1, so that neither squares nor products of large or tiny entries leave the range of float32.
        unit = matrix / matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
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
