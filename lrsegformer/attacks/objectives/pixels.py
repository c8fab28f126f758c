"""
Attack objectives of pixels: a value an image, to be maximised, on the upsampled logits that the reported decision is
made of.

With p the softmax of a pixel's upsampled logits z, y its label (or target) and q = p_y, the pixel objectives are
functions of p whose gradient is a weight times `p - onehot(y)`: the cross entropy's, times what the rule says. So one
pass over bands of rows gives values, gradient and the number of pixels that are right, without ever holding the
upsampled logits.

| name | value of a pixel | source |
|---|---|---|
| `cross_entropy` | -log q | PGD, arXiv 1706.06083 |
| `segpgd` | 1 - t' of the cross entropy where right, t' where wrong, t' = (t - 1) / (2T) | arXiv 2207.12391 |
| `cospgd` | cosine of softmax and one-hot label, times the cross entropy | arXiv 2302.02213 |
| `jensen_shannon` | Jensen-Shannon divergence of softmax and one-hot label | arXiv 2306.12941 |
| `masked_cross_entropy` | cross entropy where still right, 0 elsewhere | arXiv 2306.12941 |
| `balanced_masked_cross_entropy` | the same, each class of the image weighing the same | arXiv 2306.12941 |

The weights of segpgd, cospgd and the masks are constants to the gradient, as in their papers; cospgd's cosine is of
the softmax, as in its authors' package.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lrsegformer.attacks.objectives import pixel_rules
from lrsegformer.attacks.objectives.pixel_rules import Pixels, Rule
from lrsegformer.data.labels import ignore_index_of
from lrsegformer.kernels.bilinear import BandedUpsampling, full_precision_products
from lrsegformer.losses import valid_pixels


class ValuesAlone:
    """What objectives that give values and what is right are when called."""

    def __call__(
        self, logits: Tensor, labels: Tensor, step: int = 1, steps: int = 1, targeted: bool = False
    ) -> Tensor:
        """The values alone of [`values_and_right`]."""
        return self.values_and_right(logits, labels, step, steps, targeted)[0]


@dataclass(frozen=True)
class PixelObjective(ValuesAlone):
    """
    The mean of a rule over the pixels that count, image by image.

    Call it with logits `(batch, num_labels, height, width)` and labels `(batch, label_height, label_width)`, or with
    logits `(batch, num_labels)` and labels `(batch,)`, where an image counts as one pixel.
    """

    name: str
    rule: Rule

    def values_and_right(
        self, logits: Tensor, labels: Tensor, step: int = 1, steps: int = 1, targeted: bool = False
    ) -> tuple[Tensor, Tensor]:
        """
        The objective of each image and how many of its pixels are right.

        Args:
            logits (`torch.Tensor`): at any resolution; upsampled bilinearly to the size of the labels, in float32 or
                float64.
            labels (`torch.Tensor`): any integer dtype. Pixels count as [`counted_pixels`] says; in classification
                every label does.
            step (`int`), steps (`int`): the attack's step t, from 1, of T, for segpgd.
            targeted (`bool`): the labels are the classes to be predicted; the sign is flipped, so that the values are
                still to be maximised.

        Returns:
            The values `(batch,)`, differentiable once in the logits and 0 where no pixel counts, and the numbers of
            counted pixels whose label is predicted `(batch,)`, int64, as
            [`~lrsegformer.evaluation.predict_classes`] decides.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        with_gradient = torch.is_grad_enabled() and logits.requires_grad
        decay = (step - 1) / (2 * steps)
        compute = _of_images if logits.ndim == 2 else _of_maps
        return _ValuesWithGradient.apply(logits, labels, compute, self.rule, decay, targeted, with_gradient)


class _ValuesWithGradient(torch.autograd.Function):
    """Values whose gradient was computed with them, so that nothing of the upsampled size is kept."""

    @staticmethod
    def forward(ctx, logits, labels, compute, rule, decay, targeted, with_gradient):
        values, right, gradients = compute(logits, labels, rule, decay, targeted, with_gradient)
        if targeted:
            values, gradients = -values, -gradients
        ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(right)
        return values, right

    @staticmethod
    @once_differentiable
    def backward(ctx, values_gradient, _):
        (gradients,) = ctx.saved_tensors
        return gradients * values_gradient.view(-1, *(1,) * (gradients.ndim - 1)), *(None,) * 6


def counted_pixels(labels: Tensor, num_labels: int) -> Tensor:
    """Mask of the pixels that count: not 255, which above 255 classes is a class like any other, and not negative."""
    return valid_pixels(labels, ignore_index_of(num_labels))


def _of_images(
    logits: Tensor, labels: Tensor, rule: Rule, decay: float, targeted: bool, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, right (both `(batch,)`) and gradients of logits `(batch, num_labels)`; the gradients cost nothing."""
    band = logits[:, :, None].clone()
    ones = logits.new_ones(len(logits), 1)
    values, right = _of_band(band, labels[:, None].long(), ones, ones, rule, decay, targeted)
    return values[:, 0], right[:, 0].long(), band[:, :, 0]


def _of_maps(
    logits: Tensor, labels: Tensor, rule: Rule, decay: float, targeted: bool, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, right (both `(batch,)`) and gradients (empty without `with_gradient`) of maps of logits."""
    batch, num_labels, *size = logits.shape
    upsampling = BandedUpsampling(num_labels, size, labels.shape[1:], logits.dtype, logits.device, with_gradient)
    gradients = torch.zeros_like(logits if with_gradient else logits[:0], memory_format=torch.contiguous_format)
    values = torch.zeros(batch, dtype=torch.float64, device=logits.device)
    rights = torch.zeros(batch, dtype=torch.int64, device=logits.device)
    with full_precision_products():
        for image in range(batch):
            valid = counted_pixels(labels[image], num_labels)
            indices = torch.where(valid, labels[image].long(), 0)
            counted = valid.to(logits.dtype) / valid.sum().clamp_min(1)
            class_weight = _balancing(indices, valid, num_labels)[indices].to(logits.dtype)
            for rows, upsampled in upsampling.bands_of(logits[image], gradients[image] if with_gradient else None):
                parts = indices[rows], counted[rows], class_weight[rows]
                value, right = _of_band(upsampled, *parts, rule, decay, targeted)
                values[image] += value.sum(dtype=torch.float64)
                rights[image] += (right & valid[rows]).sum()
    return values.to(logits.dtype), rights, gradients


def _balancing(indices: Tensor, valid: Tensor, num_labels: int) -> Tensor:
    """Weights of the classes `(num_labels,)`: the counted pixels over those of the class and the classes present."""
    counts = torch.zeros(num_labels, dtype=torch.float64, device=indices.device)
    counts.scatter_add_(0, indices.flatten(), valid.flatten().double())
    present = (counts > 0).sum().clamp_min(1)
    return torch.where(counts > 0, counts.sum() / (counts.clamp_min(1) * present), 0.0)


def _of_band(
    logits: Tensor, labels: Tensor, counted: Tensor, class_weight: Tensor, rule: Rule, decay: float, targeted: bool
) -> tuple[Tensor, Tensor]:
    """
    Values and "is right", `(rows, columns)`, of a band whose logits `(rows, num_labels, columns)` are overwritten by
    the gradient of the summed values; `counted` holds the pixels' shares of their images' mean.
    """
    num_labels = logits.shape[1]
    indices = labels[:, None]
    logits.sub_(logits.amax(dim=1, keepdim=True))
    # Where several classes are largest the lowest is predicted, so the largest of these places is the prediction's.
    places = torch.arange(num_labels, 0, -1, dtype=logits.dtype, device=logits.device)[:, None]
    # Written as numbers: a CPU goes through booleans several times slower.
    largest = torch.ge(logits, 0, out=torch.empty_like(logits))
    right = largest.mul_(places).amax(dim=1) == num_labels - labels
    label_logits = logits.gather(1, indices)
    # What the label leaves to the others is summed, not subtracted from 1: a gradient survives margins at which the
    # label's probability rounds to 1.
    others = logits.exp_().scatter_(1, indices, 0).sum(dim=1, keepdim=True)
    sums = others + label_logits.exp()
    log_of_sums = torch.where(label_logits == 0, others.log1p(), sums.log())
    log_likelihood = (label_logits - log_of_sums)[:, 0]
    values, weights = rule(Pixels(log_likelihood, right, logits.div_(sums), class_weight, decay, targeted))
    weights = (counted * weights)[:, None]
    logits.mul_(weights).scatter_(1, indices, -weights * others / sums)
    return counted * values, right


cross_entropy = PixelObjective("cross_entropy", pixel_rules.cross_entropy)
segpgd = PixelObjective("segpgd", pixel_rules.segpgd)
cospgd = PixelObjective("cospgd", pixel_rules.cospgd)
jensen_shannon = PixelObjective("jensen_shannon", pixel_rules.jensen_shannon)
masked_cross_entropy = PixelObjective("masked_cross_entropy", pixel_rules.masked_cross_entropy)
balanced_masked_cross_entropy = PixelObjective(
    "balanced_masked_cross_entropy", pixel_rules.balanced_masked_cross_entropy
)
