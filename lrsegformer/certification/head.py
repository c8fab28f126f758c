"""
The norms and the bound of a head, from the parts that a model hands over.

The head of the segmentation model is, up to constants, `B relu(sum_i U_i M_i x_i)`: `x_i` the features of stage `i`,
`M_i` the product of its block of the fuse convolution (the scale of the normalisation included) and its projection,
`U_i` bilinear upsampling (`align_corners=False`), `B` the classifier. The norm of the part before the ReLU:

| norm of the features | its norm |
|---|---|
| `per_pixel_l2`: sqrt(sum_i max_p abs(x_i(p))_2^2) | largest singular value of [M_1 .. M_4] |
| `linf`: largest entry | largest absolute row sum of [M_1 .. M_4] |
| `per_pixel_l1`: sum_i max_p abs(x_i(p))_1 | largest absolute column sum of [M_1 .. M_4] |
| `l2`: over all pixels, channels and stages | largest singular value of [s_1 M_1 .. s_4 M_4], s_i the factor of U_i |

The first three hold for images of any size. The last one holds where the sides are multiples of the coarsest stride
(32), so that every factor is an integer. The head of the classification model is its classifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lrsegformer.certification.parts import Chain, Constrained, Norm, Part
from lrsegformer.layers.norms import ROUNDING_MARGIN

# Far more than a sum or an eigenvalue computed in float64 can fall short of the exact one (about 1e-13 of it).
FLOAT64_MARGIN = 1e-9


@dataclass(frozen=True)
class HeadParts:
    """
    A head in eval mode, constrained or not, with weights as they are now.

    Attributes:
        reach (`str`): in words, from where to where the head's map goes.
        norms (`Sequence[Norm]`): in which it is measured.
        to_relu (`Part`, *optional*): from the features to the ReLU, multiplied out as the head computes it.
        classifier (`Part`): what follows, or all of a head without a ReLU.
        layers (`Chain`): the whole head, layer by layer, each with the norm of its matrix.
        constrained (`Chain`, *optional*):
            The same with each layer's guaranteed bound; `None` where the constraint does not reach the whole head. The
            last part is the classifier.
    """

    reach: str
    norms: Sequence[Norm]
    to_relu: Part | None
    classifier: Part
    layers: Chain
    constrained: Chain | None

    def to_relu_bound(self, norm: Norm) -> float:
        """Norm of the map from the features to the ReLU: exact, rounded up by 1e-9 of itself."""
        return self.to_relu.constant(norm).item() * (1 + FLOAT64_MARGIN)

    def bound(self, norm: Norm) -> float:
        """Bound of the map from the features to the logits before upsampling: the ReLU is 1-Lipschitz in each norm."""
        to_relu = 1.0 if self.to_relu is None else self.to_relu_bound(norm)
        return to_relu * self.classifier.constant(norm).item() * (1 + ROUNDING_MARGIN)

    def exact_bound(self, norm: Norm) -> torch.Tensor:
        """[`bound`] without what rounding may add to it: float64 scalar, differentiable."""
        to_classifier = self.classifier.constant(norm)
        return to_classifier if self.to_relu is None else self.to_relu.constant(norm) * to_classifier

    def row(self, norm: Norm) -> dict[str, float]:
        """The row of the norm in the report."""
        if self.to_relu is None:
            return {"bound": self.bound(norm)}
        return {
            "to_relu_bound": self.to_relu_bound(norm),
            "bound": self.bound(norm),
            "product_of_norms": self.layers.constant(norm).item(),
        }

    def last_layer(self) -> Constrained | None:
        """The constrained classifier; `None` where the constraint does not bound the head."""
        return None if self.constrained is None else self.constrained.parts[-1]

    def bounded_norm(self) -> Norm | None:
        """The norm in which the constraint bounds the head; `None` where it does not bound it."""
        last = self.last_layer()
        return None if last is None else next(norm for norm in self.norms if norm.channels == last.layer.norm)


def head_bound(parts: HeadParts) -> float | None:
    """What a report's `["head"]["bound"]` says, without the rest of it: `None` where the constraint does not bound."""
    norm = parts.bounded_norm()
    return None if norm is None else parts.bound(norm)
