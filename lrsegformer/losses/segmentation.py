"""Cross entropy at the resolution of the labels."""

import torch
from torch.nn import functional


def valid_pixels(labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Mask of the labels that count: not `ignore_index`, and not negative (padding adds -100)."""
    return (labels != ignore_index) & (labels >= 0)


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = 255) -> torch.Tensor:
    """
    Mean cross entropy over the valid pixels, the logits brought to the size of the labels by bilinear upsampling.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels, height, width)`):
            With a single label the loss is the binary cross entropy of that label.
        labels (`torch.Tensor` of shape `(batch, label_height, label_width)`): any integer dtype.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels that do not count; negative ones never
        do.

    Returns:
        `torch.Tensor`: a scalar, computed in at least float32. 0, with zero gradients, where no pixel is valid (stock
        SegFormer returns NaN). With a single label the mean is over the valid pixels; stock SegFormer's is over all.
    """
    valid = valid_pixels(labels, ignore_index)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    upsampled = functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    if logits.shape[1] == 1:
        losses = functional.binary_cross_entropy_with_logits(
            upsampled.squeeze(1), labels.clamp(0, 1).to(upsampled.dtype), reduction="none"
        )
        total = (losses * valid).sum()
    else:
        targets = torch.where(valid, labels.long(), ignore_index)
        total = functional.cross_entropy(upsampled, targets, ignore_index=ignore_index, reduction="sum")
    return total / valid.sum().clamp_min(1)
