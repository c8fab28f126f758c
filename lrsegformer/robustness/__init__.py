"""Robustness and generalisation of any SegFormer checkpoint, ours or stock: attacks, corruptions and shifted data."""
