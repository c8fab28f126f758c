"""Bounds of the head, and the report that tells them."""

from lrsegformer.certification.text import format_report

__all__ = ["format_report"]
