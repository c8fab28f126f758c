"""Data of another distribution: corrupted images, other data sets, and the maps between their classes."""
