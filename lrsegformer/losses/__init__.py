"""The full-resolution segmentation loss."""

from lrsegformer.losses.segmentation import segmentation_loss, total_weight, valid_pixels

__all__ = ["segmentation_loss", "total_weight", "valid_pixels"]
