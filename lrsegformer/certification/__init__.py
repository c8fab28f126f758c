"""Bounds of the head."""
