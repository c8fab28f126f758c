"""The full-resolution segmentation loss."""

from lrsegformer.losses.segmentation import segmentation_loss, valid_pixels

__all__ = ["segmentation_loss", "valid_pixels"]
