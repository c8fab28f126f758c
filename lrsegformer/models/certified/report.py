"""The report of a certified model: each layer, the head, and the whole network."""

from collections.abc import Sequence
from typing import Any

import torch

from lrsegformer.certification.calculus import Constants
from lrsegformer.certification.parts import Constrained, finite_norm
from lrsegformer.certification.report import layer_row
from lrsegformer.layers.norms import ROUNDING_MARGIN

# Height and width of the image that a report is of where none is named.
REPORTED_SIZE = (512, 512)
HEAD_NOTE = (
    "From the features of all stages to the logits before upsampling: changes of at most r at every pixel of every "
    "scale move the logits by at most the bound times r."
)
NETWORK_NOTE = (
    "From an image on a scale of 0 to 1, as the model receives it, to the logits, at this size and in eval mode; the "
    "processor's normalisation is part of it, its resize is not. Rounding inside the forward pass is not covered."
)


def certified_report(
    strategy: str,
    dtype: torch.dtype,
    layers: Sequence[Constrained],
    head_bound: float,
    features: Constants,
    rows: torch.Tensor,
    size: tuple[int, int],
) -> dict[str, Any]:
    """
    As [`~lrsegformer.models.lipschitz_head.LipschitzHeadMixin.lipschitz_report`] describes it.

    Args:
        strategy (`str`), dtype (`torch.dtype`): the model's.
        layers (`Sequence[Constrained]`): all constrained layers.
        head_bound (`float`): from the stages' features to the logits.
        features ([`~lrsegformer.certification.calculus.Constants`]): from the image to those features.
        rows (`torch.Tensor` of shape `(num_labels, channels)`): of the classifier.
        size (`tuple[int, int]`): height and width of the image.
    """
    rows_norm = finite_norm(rows, "l2").item() * (1 + ROUNDING_MARGIN)
    norms = {
        "l2_to_per_pixel_l2": features.l2_to_per_pixel.item() * rows_norm,
        "per_pixel_l2": features.per_pixel_to_per_pixel.item() * rows_norm,
        "l2": features.l2_to_l2.item() * rows_norm,
    }
    return {
        "strategy": strategy,
        "scope": "certified",
        "dtype": str(dtype).removeprefix("torch."),
        "layers": [layer_row(part, dtype) for part in layers],
        "head": {
            "norm": "per-pixel l2: sqrt(sum over scales of max over pixels of |x_i(p)|_2^2)",
            "bound": head_bound,
            "product_of_bounds": head_bound,
            "guaranteed": True,
            "note": HEAD_NOTE,
            "norms": {},
        },
        "network": {
            "norm": "from l2 of the image to the largest over pixels of the l2 norm of the logits",
            "bound": norms["l2_to_per_pixel_l2"],
            "bound_of_features": features.l2_to_per_pixel.item(),
            "norms": norms,
            "image_size": list(size),
            "guaranteed": True,
            "note": NETWORK_NOTE,
        },
    }
