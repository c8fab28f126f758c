"""Cross entropy of upsampled logits without the upsampled logits: band by band, loss and gradient in one pass."""

import torch

from lrsegformer.errors import InputError
from lrsegformer.kernels.bilinear import BandedUpsampling, full_precision_products

# Logits of an image that differ by no more than this are exponentiated around their middle: between e^-30 and e^30.
SAFE_SPREAD = 60


@torch.library.custom_op("lrsegformer::upsampled_cross_entropy", mutates_args=())
def upsampled_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    valid: torch.Tensor,
    total_weight: torch.Tensor,
    class_weights: torch.Tensor | None,
    label_smoothing: float,
    margins: torch.Tensor | None,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean cross entropy of the bilinearly upsampled logits, and its gradient with respect to the logits.

    The rows of logits that a slab of bands needs are upsampled along the width, then each band along the height; its
    loss, softmax and gradient are computed in place, and the gradient goes back through the same two matrices. Beyond
    the gradient that it returns it needs the memory of a slab: a few rows of upsampled logits.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels, height, width)`): float32 or float64. With one label the
            loss is the binary cross entropy.
        labels (`torch.Tensor` of shape `(batch, label_height, label_width)`): any integer dtype.
        valid (`torch.Tensor` of the shape of `labels`, bool): the labels that count.
        total_weight (`torch.Tensor`): scalar that the sum of the losses is divided by.
        class_weights (`torch.Tensor` of shape `(num_labels,)`, *optional*): weights of the classes, in the dtype of
            the logits.
        label_smoothing (`float`): share of the target that is spread over all classes.
        margins (`torch.Tensor` of shape `(num_labels, num_labels)`, *optional*):
            Not negative, in the dtype of the logits: row y is added to the logits of pixels with label y, so that the
            label has to lead each class by that much. A constant to the gradient. Not with a single label.
        with_gradient (`bool`): without it the second result is empty.

    Returns:
        The loss (scalar) and its gradient, in the dtype of the logits. Both are 0 where no label is valid.
    """
    batch, num_labels, height, width = logits.shape
    _check_range(labels, valid, num_labels)
    upsampling = BandedUpsampling(
        num_labels, (height, width), labels.shape[1:], logits.dtype, logits.device, with_gradient
    )
    gradients = torch.zeros_like(logits if with_gradient else logits[:0], memory_format=torch.contiguous_format)
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    normaliser = total_weight.clamp_min(torch.finfo(logits.dtype).tiny)
    softmax = num_labels > 1
    band_loss = _softmax_band if softmax else _sigmoid_band
    with full_precision_products():
        for image in range(batch):
            gradient = gradients[image] if with_gradient else None
            middle = _middle(logits[image], margins) if softmax else None
            for rows, upsampled in upsampling.bands_of(logits[image], gradient, middle):
                if margins is not None:
                    upsampled += _margins_at(margins, labels[image, rows], valid[image, rows])
                if softmax and middle is None:
                    upsampled.sub_(upsampled.amax(dim=1, keepdim=True))
                total += band_loss(upsampled, labels[image, rows], valid[image, rows], class_weights, label_smoothing)
    return (total / normaliser).to(logits.dtype), gradients.div_(normaliser)


@upsampled_cross_entropy.register_fake
def _(logits, labels, valid, total_weight, class_weights, label_smoothing, margins, with_gradient):
    like = logits if with_gradient else logits[:0]
    return logits.new_empty(()), torch.empty_like(like, memory_format=torch.contiguous_format)


class _DifferentiableOnce(torch.autograd.Function):
    """The gradient, tied to the logits: it is a constant to autograd, and a second derivative would silently be 0."""

    @staticmethod
    def forward(ctx, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> None:
        raise RuntimeError(
            "The full-resolution loss cannot be differentiated twice: for second derivatives take F.cross_entropy of "
            "F.interpolate(logits)."
        )


def _keep_gradient(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], inputs[0])


def _scaled_gradient(ctx, loss_gradient, _):
    gradient, logits = ctx.saved_tensors
    if loss_gradient is None:
        return (None,) * 8
    scaled = gradient * loss_gradient
    if torch.is_grad_enabled():
        scaled = _DifferentiableOnce.apply(scaled, logits)
    return scaled, *(None,) * 7


upsampled_cross_entropy.register_autograd(_scaled_gradient, setup_context=_keep_gradient)


def _margins_at(margins: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The row of each label, `(rows, num_labels, columns)`; that of label 0 where none counts."""
    return margins[torch.where(valid, labels.long(), 0)].transpose(1, 2)


def _middle(logits: torch.Tensor, margins: torch.Tensor | None) -> torch.Tensor | None:
    """
    The middle of an image's logits where it may be subtracted in place of each pixel's largest one, else `None`.

    Upsampled logits lie between the smallest and the largest of the image, so none is further than half the spread
    from the middle.
    """
    if logits.device.type != "cpu":
        return None  # Asking would wait for the device.
    lowest, highest = logits.aminmax()
    if margins is not None:
        highest = highest + margins.max()
    return (lowest + highest) / 2 if highest - lowest <= SAFE_SPREAD else None


def _softmax_band(
    logits: torch.Tensor,
    labels: torch.Tensor,
    valid: torch.Tensor,
    class_weights: torch.Tensor | None,
    label_smoothing: float,
) -> torch.Tensor:
    """
    The summed loss of a band, whose logits `(rows, num_labels, columns)` are overwritten by their gradient. Their
    exponentials have to be finite, and those of a pixel must not all vanish.

    With p the softmax and t the target, a vector of weights, the loss of a pixel is `sum(t) log(sum(exp(z))) - t z`
    and its gradient `sum(t) p - t`. t holds `(1 - smoothing) w_y` at the label y, and `smoothing / num_labels * w_k`
    at every class k, as in `torch.nn.functional.cross_entropy`.
    """
    num_labels = logits.shape[1]
    indices = torch.where(valid, labels.long(), 0)[:, None]
    counted = valid[:, None].to(logits.dtype)
    hard = counted if class_weights is None else counted * class_weights[indices]
    amount = hard
    if label_smoothing > 0:
        weights = logits.new_ones(num_labels) if class_weights is None else class_weights
        spread = weights * (label_smoothing / num_labels)
        hard = hard * (1 - label_smoothing)
        amount = hard + counted * spread.sum()
        smoothed = counted * torch.einsum("k,rkc->rc", spread, logits)[:, None]
    linear = hard * logits.gather(1, indices)
    sums = logits.exp_().sum(dim=1, keepdim=True)
    losses = amount * sums.log() - linear
    logits.mul_(amount / sums).scatter_add_(1, indices, -hard)
    if label_smoothing > 0:
        losses = losses - smoothed
        logits.sub_(counted * spread[:, None])
    return losses.sum(dtype=torch.float64)


def _sigmoid_band(
    logits: torch.Tensor,
    labels: torch.Tensor,
    valid: torch.Tensor,
    class_weights: torch.Tensor | None,
    label_smoothing: float,
) -> torch.Tensor:
    """As [`_softmax_band`], for the binary cross entropy of a single label."""
    counted = valid[:, None].to(logits.dtype)
    if class_weights is not None:
        counted = counted * class_weights
    targets = labels[:, None].clamp(0, 1).to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    losses = counted * (torch.nn.functional.softplus(logits) - targets * logits)
    logits.sigmoid_().sub_(targets).mul_(counted)
    return losses.sum(dtype=torch.float64)


def _check_range(labels: torch.Tensor, valid: torch.Tensor, num_labels: int) -> None:
    # On other devices the check would wait for the device; gather stops the program there.
    if labels.device.type != "cpu" or not valid.any():
        return
    largest = int(torch.where(valid, labels, torch.zeros_like(labels)).max())
    if largest >= max(num_labels, 2):
        raise InputError(
            f"label {largest} in a batch, but the model has {num_labels} classes: labels are 0 to "
            f"{max(num_labels, 2) - 1}, or the ignore index."
        )
