"""The full-resolution segmentation loss, and the divergence of two predictions."""

from lrsegformer.losses.consistency import consistency_loss
from lrsegformer.losses.segmentation import segmentation_loss, total_weight, valid_pixels

__all__ = ["consistency_loss", "segmentation_loss", "total_weight", "valid_pixels"]
