"""Of what a model has a proven constant: of the map from pixels to features, of its head alone, or of nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.certification.head import FLOAT64_MARGIN, HeadParts
from lrsegformer.certification.margins import inverse_distances
from lrsegformer.kernels.bilinear import interpolation_matrix
from lrsegformer.layers.norms import l2_norm
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig

NETWORK, FEATURES = "network", "feature space"
# The norm of features in which the head of a segmentation model is bounded at any size.
_HEAD_NORM = "per_pixel_l2"


Size = tuple[int, int]


class PathConstants(NamedTuple):
    """
    Proven bounds of how far the features that the classifier multiplies move, for an input that moves by 1.

    Attributes:
        per_pixel (`float`): the farthest pixel.
        collective (`float`): in l2 over all pixels at the size of the labels; infinite where it is not known.
        details (`dict`): the numbers that these are made of, for reports.
    """

    per_pixel: float
    collective: float
    details: dict[str, float]


class Proof(NamedTuple):
    """
    What certificates of a model stand on.

    Attributes:
        reach (`str`): `"network"`: perturbations of the pixels; `"feature space"`: of the features before the head.
        note (`str`): in a sentence, what is certified.
        inverse (`torch.Tensor`): of [`~lrsegformer.certification.margins.inverse_distances`].
        constants (`Callable`): from a norm, the size of the image, that of the logits and that of the labels (the last
            two `None` for classification) to [`PathConstants`].
    """

    reach: str
    note: str
    inverse: Tensor
    constants: Callable[[str, Size, Size | None, Size | None], PathConstants]

    def norms(self, asked: list[str]) -> list[str]:
        """Those of the norms that were asked for, or the features' own."""
        return asked if self.reach == NETWORK else [FEATURES]


def proof_of(model: PixelModel) -> tuple[Proof | None, str]:
    """What certificates of a model stand on, `None` where it has none, and a sentence about either."""
    inner, config = model.model, model.model.config
    if not isinstance(config, LRSegformerConfig):
        return None, "No certificate: a stock model, whose attention and LayerNorm have no useful constant."
    scope = config.lipschitz_scope if config.lipschitz_strategy is not None else None
    if scope is None or scope == "projections":
        what = "the baseline, without a constraint" if scope is None else f"scope '{scope}' does not bound the head"
        return None, f"No certificate: {what}."
    if scope == "certified":
        note = (
            "Certified from the pixels of the image that the model receives, by the proven constant of its features "
            "and the distances of its classifier's rows."
        )
        return Proof(NETWORK, note, inverse_distances(inner.classifier_rows()), _network_constants(model)), note
    parts = inner.head_parts(torch.float32)
    where = "the features of all stages, in sqrt(sum over stages of max over pixels of |x_i(p)|_2^2)"
    if parts.to_relu is None:
        where = "the mean of the last stage's features, in l2"
    note = f"Certified in feature space, not in pixels: {where}."
    rows = parts.classifier.matrix
    return Proof(FEATURES, note, inverse_distances(rows), _head_constants(parts)), note


def _network_constants(model: PixelModel) -> Callable[..., PathConstants]:
    normalisation = normalisation_factor(model)

    @lru_cache(maxsize=64)
    def constants(norm: str, size: Size, logits_size: Size | None, label_size: Size | None) -> PathConstants:
        with torch.no_grad():
            found = model.model.network_constants(*size)
        names = {
            "l2": ("l2_to_per_pixel", "l2_to_l2"),
            "per_pixel_l2": ("per_pixel_to_per_pixel", "per_pixel_to_l2"),
        }[norm]
        per_pixel, to_l2 = (normalisation * float(getattr(found, name)) for name in names)
        details = dict(zip(names, (per_pixel, to_l2), strict=True))
        if logits_size is None or label_size is None:
            return PathConstants(per_pixel, torch.inf, details)
        details["upsampling_l2_to_l2"] = upsampling_norm(logits_size, label_size)
        return PathConstants(per_pixel, to_l2 * details["upsampling_l2_to_l2"], details)

    return constants


def normalisation_factor(model: PixelModel) -> float:
    """
    What a network's constants have to be multiplied by where its processor divides channels by other deviations than
    its configuration says, which its constants include; 1 where they agree.
    """
    expected = torch.tensor(model.model.config.pixel_std(), dtype=torch.float32)
    ratios = expected.double() / model.std.flatten().cpu().double()
    return float(ratios.max())


def _head_constants(parts: HeadParts) -> Callable[..., PathConstants]:
    norm = next(norm for norm in parts.norms if norm.name == (_HEAD_NORM if parts.to_relu is not None else "l2"))
    bound = 1.0 if parts.to_relu is None else parts.to_relu_bound(norm)
    name = "features_to_classifier" if parts.to_relu is None else "features_to_relu"

    def constants(norm: str, size: Size, logits_size: Size | None, label_size: Size | None) -> PathConstants:
        return PathConstants(bound, torch.inf, {name: bound})

    return constants


@torch.no_grad()
def feature_norms(model: PixelModel, images: Tensor) -> Tensor:
    """Of each image `(batch,)` the norm of its features in which certificates in feature space speak, as it is."""
    features = model.model(pixel_values=model.normalise(images), output_hidden_states=True).hidden_states
    if model.task == "classification":
        return torch.linalg.vector_norm(features[-1].flatten(2).mean(dim=2), dim=1)
    largest = [torch.linalg.vector_norm(stage, dim=1).flatten(1).amax(dim=1) for stage in features]
    return torch.stack(largest).square().sum(dim=0).sqrt()


@lru_cache(maxsize=256)
def upsampling_norm(size: Size, new_size: Size) -> float:
    """
    The norm of bilinear resampling from one size to another, from l2 to l2 over all pixels, rounded up.

    The map is a Kronecker product of one matrix along each axis, so its norm is the product of theirs.
    """
    # Of the weights in float32, which are those that predictions are upsampled with.
    height, width = (l2_norm(interpolation_matrix(old, new)).item() for old, new in zip(size, new_size, strict=True))
    return height * width * (1 + FLOAT64_MARGIN)
