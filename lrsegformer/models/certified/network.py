"""What a certified model knows of itself: its constants from the pixels on, part by part."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from lrsegformer.certification.calculus import Constants
from lrsegformer.certification.head import FLOAT64_MARGIN
from lrsegformer.certification.parts import Constrained, finite_norm
from lrsegformer.certification.primitives import mean_over_positions, non_expansive
from lrsegformer.errors import InputError
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.norms import ROUNDING_MARGIN
from lrsegformer.models.certified.classifier import EqualRowsClassifier
from lrsegformer.models.certified.report import REPORTED_SIZE, certified_report
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.encoder.certified import padded_sides, stage_grids
from lrsegformer.models.encoder.mix_ffn import UnitGainDepthwiseConv
from lrsegformer.models.encoder.pointwise import PointwiseMap
from lrsegformer.models.task import task_of


class CertifiedNetworkMixin:
    """
    The constants of a model of scope `"certified"`, from an image on a scale of 0 to 1 to its logits.

    They hold in eval mode, for the float32 weights as they are, in exact arithmetic: what rounds inside the forward
    pass is outside of them. The processor's normalisation is inside, its resize is not: the image is the one that the
    model receives. A model of another scope refuses.
    """

    config: LRSegformerConfig

    def is_certified(self) -> bool:
        """Whether the scope is `"certified"`."""
        return self.config.is_certified

    def network_constants(self, height: int, width: int) -> Constants:
        """
        From an image to the features that the classifier's rows multiply.

        Args:
            height (`int`), width (`int`): of the image as the model receives it, in pixels.

        Returns:
            [`~lrsegformer.certification.calculus.Constants`], differentiable, rounding in float64 covered. Of a
            classification model the features are one vector, a map of one pixel.

        Raises:
            [`~lrsegformer.errors.InputError`]: for a model of another scope.
        """
        self._refuse_other_scopes()
        scales = self._stage_constants(height, width)
        return self._head_constants(scales, (height, width)).widened(FLOAT64_MARGIN)

    def classifier_rows(self) -> torch.Tensor:
        """The rows `w_a` of the last map, `(num_labels, channels)`, float64: logits a and b differ by `w_a - w_b`."""
        self._refuse_other_scopes()
        return self._equal_rows().rows().double()

    def logit_margins(self, last_features: torch.Tensor) -> torch.Tensor | None:
        """
        By how much the loss asks each class to lead each other one, `(num_labels, num_labels)`: in training mode, of a
        certified model with a radius to train for.

        Args:
            last_features (`torch.Tensor`): of the last stage, whose mean a classification model takes.
        """
        radius = self.config.certified_training_radius
        if not (self.training and self.is_certified() and radius > 0):
            return None
        bound = self.network_bound().detach().double()
        if task_of(self) == "classification":
            bound = bound / math.sqrt(last_features.shape[2] * last_features.shape[3])
        return self._equal_rows().logit_margins(radius, bound)

    def all_layers_apart(self) -> list[list[LipschitzConstraint]]:
        """All constrained layers as factors of a penalty that follow each other."""
        return [[layer] for layer in self.constrained_layers().values()]

    def keep_certified_maps(self) -> None:
        """Compute all matrices and kernels once, until training mode."""
        for module in self.modules():
            if isinstance(module, PointwiseMap | UnitGainDepthwiseConv):
                module.keep_maps()

    def certified_head_bound(self) -> float:
        """From the features of all stages, the largest change of a pixel of each counted, to the logits."""
        return self._head_bound().item() * finite_norm(self.classifier_rows(), "l2").item() * (1 + ROUNDING_MARGIN)

    def certified_report(
        self, dtype: torch.dtype, layers: Sequence[Constrained], image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """The report of scope certified, for an image of this height and width."""
        constants = self.network_constants(*image_size)
        strategy, rows = self.config.lipschitz_strategy, self.classifier_rows()
        return certified_report(strategy, dtype, layers, self.certified_head_bound(), constants, rows, image_size)

    def network_bound(self) -> torch.Tensor:
        """
        What [`network_constants`] says from l2 to the largest pixel, from the bounds that the layers state: cheap,
        differentiable float32, for losses and penalties.

        It never falls short of the exact constants by more than float32 rounds, and above them lies what the layers'
        bounds lie above their norms.
        """
        self._refuse_other_scopes()
        lengths = [torch.ones((), device=self.device)]
        for stage in self.segformer.stages:
            lengths.append(lengths[-1] * stage.patch_embeddings.matrix.maps().bound)
        if task_of(self) == "classification":
            return lengths[-1]
        head = self.decode_head
        bounds = torch.stack([each.maps().bound for each in head.linear_projections])
        scaled = head.scale_weights() * bounds * torch.stack(lengths[1:])
        return torch.linalg.vector_norm(scaled) * head.linear_fuse.maps().bound

    @torch.no_grad()
    def logits_bound(self, height: int = REPORTED_SIZE[0], width: int = REPORTED_SIZE[1]) -> float:
        """
        What the report says of `["network"]["bound"]`, from the bounds that the layers state, as [`network_bound`]:
        from the l2 norm of an image of this size to the largest over pixels of the l2 norm of the logits.
        """
        bound = self.network_bound().double() * finite_norm(self.classifier_rows(), "l2") * (1 + ROUNDING_MARGIN)
        if task_of(self) == "classification":
            bound = bound / math.sqrt(math.prod(stage_grids(self.config, height, width)[-1]))
        return bound.item()

    def network_modules(self, height: int, width: int) -> Iterator[tuple[str, nn.Module, Constants]]:
        """
        The parts of the encoder that follow each other, and the head's steps, for measuring each against its
        constants: the name, the module, and its constants for an image of this size.
        """
        self._refuse_other_scopes()
        sides = padded_sides(self.config, height, width)
        pixels = sides[0] * sides[1]
        for index, stage in enumerate(self.segformer.stages):
            embedding = stage.patch_embeddings
            yield f"stages.{index}.patch_embeddings", embedding, embedding.constants(pixels)
            pixels //= embedding.block**2
            for number, block in enumerate(stage.blocks):
                place = f"stages.{index}.blocks.{number}"
                yield f"{place}.attention", block.attention, block.attention.constants(pixels)
                for order, step in enumerate(block.mlp.steps):
                    yield f"{place}.mlp.steps.{order}", step, step.constants(pixels)
        if task_of(self) == "segmentation":
            constants = self.decode_head.step_constants((height, width))
            for order, step in enumerate(self.decode_head.steps):
                yield f"decode_head.steps.{order}", step, constants[order]

    def _stage_constants(self, height: int, width: int) -> list[Constants]:
        """From the image to each stage's features."""
        sides = padded_sides(self.config, height, width)
        padding = non_expansive(height * width, sides[0] * sides[1])
        scales: list[Constants] = []
        for stage in self.segformer.stages:
            own = stage.constants(sides[0] * sides[1])
            scales.append((scales[-1] if scales else padding).then(own))
            sides = tuple(side // stage.patch_embeddings.block for side in sides)
        return scales

    def _head_constants(self, scales: list[Constants], size: tuple[int, int]) -> Constants:
        if task_of(self) == "segmentation":
            return self.decode_head.constants(scales, size)
        return scales[-1].then(mean_over_positions(math.prod(stage_grids(self.config, *size)[-1])))

    def _head_bound(self) -> torch.Tensor:
        if task_of(self) == "classification":
            return torch.ones((), device=self.device)
        projections = torch.stack([each.maps().bound for each in self.decode_head.linear_projections])
        return projections.max() * self.decode_head.linear_fuse.maps().bound

    def _equal_rows(self) -> EqualRowsClassifier:
        return self.decode_head.classifier if task_of(self) == "segmentation" else self.classifier

    def _refuse_other_scopes(self) -> None:
        if not self.is_certified():
            raise InputError(
                "only a model of scope 'certified' has a constant from the pixels on: this one has scope "
                f"{self.config.lipschitz_scope!r}; train one with --scope certified, or certify by --smoothing."
            )

    def refuse_export_to_stock(self) -> None:
        """Raises [`~lrsegformer.errors.InputError`] for a certified model, which no stock one computes."""
        if self.is_certified():
            raise InputError(
                "a certified network has other parts than the stock SegFormer, so there is no stock model with its "
                "logits: load it with this package, or export its graph by `lrsegformer export --format onnx pt2`."
            )
