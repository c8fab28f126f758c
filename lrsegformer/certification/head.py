"""
The norms of a head's linear maps, from the matrices that it multiplies by.

The head of the segmentation model is, up to constants, `B relu(sum_i U_i M_i x_i)`: `x_i` the features of stage `i`,
`M_i` the product of its block of the fuse convolution (the scale of the normalisation included) and its projection,
`U_i` bilinear upsampling (`align_corners=False`), `B` the classifier. The norm of the part before the ReLU:

| norm of the features | its norm |
|---|---|
| `per_pixel_l2`: sqrt(sum_i max_p abs(x_i(p))_2^2) | largest singular value of [M_1 .. M_4] |
| `linf`: largest entry | largest absolute row sum of [M_1 .. M_4] |
| `per_pixel_l1`: sum_i max_p abs(x_i(p))_1 | largest absolute column sum of [M_1 .. M_4] |
| `l2`: over all pixels, channels and stages | largest singular value of [s_1 M_1 .. s_4 M_4], s_i the factor of U_i |

The first three hold for images of any size: each pixel of `U_i v` is an average of pixels of `v`. The last one holds
where the sides are multiples of the coarsest stride (32), so that every factor is an integer: the rows of one-
dimensional upsampling by `s` sum to 1 and its columns to `s`, so its singular values are at most sqrt(s) (Schur's
test); in two dimensions it is a Kronecker product, so `U_i U_i^T <= s_i^2 I`, and with it `sum_i (M_i M_i^T) x (U_i
U_i^T)` is at most `sum_i s_i^2 M_i M_i^T` (x the Kronecker product). All four are attained by features that are the
same at every pixel of a stage.
"""

from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Any

import torch

from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.norms import ROUNDING_MARGIN, operator_norm
from lrsegformer.models.decode_head import LRSegformerDecodeHead, plain_matrix
from lrsegformer.models.normalization import CenteringBatchNorm2d

if TYPE_CHECKING:
    from lrsegformer.models import LRSegformerForImageClassification, LRSegformerForSemanticSegmentation

    Model = LRSegformerForSemanticSegmentation | LRSegformerForImageClassification

# Far more than a sum or an eigenvalue computed in float64 can fall short of the exact one (about 1e-13 of it).
FLOAT64_MARGIN = 1e-9


def finite_norm(matrix: torch.Tensor, norm: str) -> float:
    """The operator norm of `matrix` (out, in), computed in float64; infinite where an entry is not finite."""
    if not torch.isfinite(matrix).all():
        # The eigendecomposition would raise, and a diverged run should end with a report all the same.
        return float("inf")
    return operator_norm(matrix, norm).item()


class DecodeHeadNorms:
    """
    The norms of a decode head in eval mode, constrained or not.

    Args:
        head ([`~lrsegformer.models.decode_head.LRSegformerDecodeHead`]): its weights as they are now.
        strides (`list[int]`): `config.strides`, the factor by which each stage reduces the resolution.
        dtype (`torch.dtype`):
            The precision in which the head computes. It folds fuse convolution and projections in float32 (float64 if
            they are) and casts the product, so the norms are those of the cast matrices.
    """

    # The first with a layer's norm is the one in which the layers' bounds compose to the head's.
    norms = {"per_pixel_l2": "l2", "linf": "linf", "per_pixel_l1": "l1", "l2": "l2"}

    def __init__(self, head: LRSegformerDecodeHead, strides: list[int], dtype: torch.dtype):
        self._factors = list(accumulate(strides[1:], mul, initial=1))
        row_scale = _scale_after(head)
        folded, _ = head.folded_maps()
        # A plain BatchNorm multiplies the outputs of the cast matrices.
        self._folded = [row_scale * matrix.to(dtype).double() for matrix in folded]
        self._classifier = plain_matrix(head.classifier).to(dtype).double()
        self._fuse = row_scale * plain_matrix(head.linear_fuse, head.fuse_row_scale()).double()
        self._projections = [plain_matrix(projection.proj).double() for projection in head.linear_projections]

    def to_relu_bound(self, name: str) -> float:
        """Norm of the map from the features to the ReLU: exact, rounded up by 1e-9 of itself."""
        stacked = torch.cat([f * matrix for f, matrix in zip(self._weights(name), self._folded, strict=True)], dim=1)
        return finite_norm(stacked, self.norms[name]) * (1 + FLOAT64_MARGIN)

    def bound(self, name: str) -> float:
        """Bound of the map from the features to the logits before upsampling: the ReLU is 1-Lipschitz in each norm."""
        classifier = finite_norm(self._classifier, self.norms[name])
        return self.to_relu_bound(name) * classifier * (1 + ROUNDING_MARGIN)

    def product_of_norms(self, name: str) -> float:
        """The same from each layer's own norm: classifier times fuse times the largest of the projections."""
        norm = self.norms[name]
        pairs = zip(self._weights(name), self._projections, strict=True)
        projections = max(factor * finite_norm(matrix, norm) for factor, matrix in pairs)
        return finite_norm(self._classifier, norm) * finite_norm(self._fuse, norm) * projections

    def row(self, name: str) -> dict[str, float]:
        """The row of the norm in the report."""
        return {
            "to_relu_bound": self.to_relu_bound(name),
            "bound": self.bound(name),
            "product_of_norms": self.product_of_norms(name),
        }

    def _weights(self, name: str) -> list[int]:
        return self._factors if name == "l2" else [1] * len(self._factors)


class ClassifierNorms:
    """The norms of a classifier on the mean over the last stage's positions; `dtype` as in [`DecodeHeadNorms`]."""

    norms = {"l2": "l2", "linf": "linf", "l1": "l1"}

    def __init__(self, classifier: torch.nn.Linear, dtype: torch.dtype):
        self._classifier = plain_matrix(classifier).to(dtype).double()

    def bound(self, name: str) -> float:
        """Bound of the map from the mean features to the logits."""
        return finite_norm(self._classifier, self.norms[name]) * (1 + ROUNDING_MARGIN)

    def row(self, name: str) -> dict[str, float]:
        """The row of the norm in the report."""
        return {"bound": self.bound(name)}


def head_norms(model: "Model", dtype: torch.dtype) -> DecodeHeadNorms | ClassifierNorms:
    """The norms of the head of either model, with weights as they are now; `dtype` is what it computes in."""
    if hasattr(model, "decode_head"):
        return DecodeHeadNorms(model.decode_head, model.config.strides, dtype)
    return ClassifierNorms(model.classifier, dtype)


def bounded_norm(model: "Model", norms: DecodeHeadNorms | ClassifierNorms) -> str | None:
    """The name of the norm in which the constraint bounds the head; `None` where it does not bound it."""
    config = model.config
    if config.lipschitz_strategy is None or config.lipschitz_scope != "head":
        return None
    return next(name for name, norm in norms.norms.items() if norm == head_classifier(model).norm)


def head_classifier(model: "Model") -> LipschitzConstraint:
    """The last layer of the head, constrained under scope `head`."""
    return model.decode_head.classifier if hasattr(model, "decode_head") else model.classifier


@torch.no_grad()
def head_bound(model: "Model", dtype: torch.dtype | None = None) -> float | None:
    """
    What `lipschitz_report()["head"]["bound"]` says, without the rest of the report.

    Args:
        model: either of the two models.
        dtype (`torch.dtype`, *optional*): see [`~lrsegformer.certification.lipschitz_report`].

    Returns:
        `float`, or `None` where the constraint does not bound the head.
    """
    norms = head_norms(model, head_dtype(model) if dtype is None else dtype)
    name = bounded_norm(model, norms)
    return None if name is None else norms.bound(name)


def head_dtype(model: "Model") -> torch.dtype:
    """The precision in which the head computes now: autocast's where that is on, else that of the encoder."""
    weight: Any = next(model.segformer.parameters())
    if weight.dtype != torch.float64 and torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def _scale_after(head: LRSegformerDecodeHead) -> torch.Tensor:
    """Factors `(channels, 1)`, float64, by which a plain BatchNorm in eval mode multiplies what the head has fused."""
    norm = head.batch_norm
    if isinstance(norm, CenteringBatchNorm2d):
        return torch.ones((), dtype=torch.float64, device=norm.weight.device)
    return (norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps))[:, None]
