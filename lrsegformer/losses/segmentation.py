"""Cross entropy at the resolution of the labels."""

from collections.abc import Sequence

import torch

from lrsegformer.errors import InputError
from lrsegformer.kernels.banded_cross_entropy import upsampled_cross_entropy


def valid_pixels(labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Mask of the labels that count: not `ignore_index`, and not negative (padding adds -100)."""
    return (labels != ignore_index) & (labels >= 0)


def total_weight(
    labels: torch.Tensor, valid: torch.Tensor, class_weights: Sequence[float] | torch.Tensor | None = None
) -> torch.Tensor:
    """
    What the sum of the pixels' losses is divided by, a float64 scalar: the number of valid labels, or the sum of the
    weights of their classes.
    """
    if class_weights is None:
        return valid.sum().double()
    class_weights = torch.as_tensor(class_weights, dtype=torch.float64, device=labels.device)
    return (class_weights[labels.long().clamp(0, len(class_weights) - 1)] * valid).sum()


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = 255,
    class_weights: Sequence[float] | torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    margins: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Mean cross entropy over the valid pixels, the logits brought to the size of the labels by bilinear upsampling.

    What `F.cross_entropy(F.interpolate(logits, labels.shape[-2:], mode="bilinear"), labels)` computes, without holding
    the upsampled logits ([`~lrsegformer.kernels.banded_cross_entropy.upsampled_cross_entropy`]).

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels, height, width)`):
            Any floating dtype; half precision is summed in float32. With a single label the loss is the binary cross
            entropy of that label.
        labels (`torch.Tensor` of shape `(batch, label_height, label_width)`): any integer dtype, any size.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels that do not count; negative ones never
            do.
        class_weights (sequence of `num_labels` floats, *optional*):
            The mean is then weighted by the weight of each pixel's class, as in `F.cross_entropy`.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Share of each target that is spread evenly over the classes; ignored pixels stay ignored.
        margins (`torch.Tensor` of shape `(num_labels, num_labels)`, *optional*):
            By how much the label of a row has to lead each class: added to the logits of that row's pixels, after
            upsampling. Not negative; a constant to the gradient.

    Returns:
        `torch.Tensor`: a scalar of at least float32, differentiable once. 0, with zero gradients, where no pixel is
        valid (stock SegFormer returns NaN). With a single label the mean is over the valid pixels; stock SegFormer's
        is over all.

    Raises:
        [`~lrsegformer.errors.InputError`]: for labels of another shape; on the CPU, for a label that is no class.
    """
    if labels.ndim != 3 or labels.shape[0] != logits.shape[0]:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} for {logits.shape[0]} images: give (batch, height, width), one "
            "class a pixel and no dimension of channels."
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if class_weights is not None:
        class_weights = torch.as_tensor(class_weights, dtype=logits.dtype, device=logits.device)
    if margins is not None:
        margins = margins.to(logits.dtype)
    valid = valid_pixels(labels, ignore_index)
    with_gradient = torch.is_grad_enabled() and logits.requires_grad
    divisor = total_weight(labels, valid, class_weights)
    loss, _ = upsampled_cross_entropy(
        logits, labels, valid, divisor, class_weights, float(label_smoothing), margins, with_gradient
    )
    return loss
