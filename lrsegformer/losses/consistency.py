"""How far two predictions of the same images are apart."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from lrsegformer.kernels.precision import at_least_float32, without_autocast
from lrsegformer.losses.segmentation import total_weight, valid_pixels


def consistency_loss(
    clean: torch.Tensor,
    perturbed: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = 255,
    class_weights: Sequence[float] | torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Mean divergence `KL(p_clean || p_perturbed)` of the predictions, over the valid pixels or the images.

    In segmentation the divergence is that of the logits as they are, before upsampling, and each valid pixel of the
    labels counts with the logits of the cell that it lies in.

    Args:
        clean, perturbed (`torch.Tensor` of shape `(batch, num_labels)` or `(batch, num_labels, height, width)`):
            Logits; half precision is computed in float32. A single label is that of a binary cross entropy.
        labels (`torch.Tensor` of shape `(batch,)` or `(batch, label_height, label_width)`): say which pixels count.
        ignore_index (`int`, *optional*, defaults to 255): label of the pixels that do not; negative ones never do.
        class_weights (sequence of `num_labels` floats, *optional*): weigh pixels or images as in the task loss.

    Returns:
        `torch.Tensor`: a scalar of at least float32, not negative but for rounding, differentiable with respect to
        both; 0 where no pixel is valid.

    Source: Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and Accuracy" (arXiv 1901.08573),
    equation 5.
    """
    log_clean, log_perturbed = (_log_probabilities(logits) for logits in (clean, perturbed))
    divergence = (log_clean.exp() * (log_clean - log_perturbed)).sum(dim=1)
    valid = valid_pixels(labels, ignore_index) if labels.ndim == 3 else labels >= 0
    total = total_weight(labels, valid, class_weights).clamp_min(torch.finfo(torch.float32).tiny)
    weights = valid.to(divergence.dtype)
    if class_weights is not None:
        by_class = torch.as_tensor(class_weights, dtype=divergence.dtype, device=labels.device)
        weights = weights * by_class[labels.long().clamp(0, len(by_class) - 1)]
    if labels.ndim == 3:
        weights = weights_of_cells(weights, divergence.shape[1:])
    return (divergence * weights).sum() / total.to(divergence.dtype)


def weights_of_cells(weights: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Sum the weights of the pixels `(batch, height, width)` that lie in each cell of a grid of that size."""
    with without_autocast(weights.device.type):
        rows, columns = (
            functional.one_hot(torch.arange(pixels, device=weights.device) * cells // pixels, num_classes=cells).to(
                weights.dtype
            )
            for pixels, cells in zip(weights.shape[1:], size, strict=True)
        )
        return rows.T @ weights @ columns


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    logits = at_least_float32(logits)
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits.log_softmax(dim=1)
