"""What is not finite stops a run: the checks of its numbers, and the layer in which they overflow."""

from lrsegformer.training.finite.checks import FiniteChecks, FiniteWeights
from lrsegformer.training.finite.overflow import first_overflow, overflow_finder

__all__ = ["FiniteChecks", "FiniteWeights", "first_overflow", "overflow_finder"]
