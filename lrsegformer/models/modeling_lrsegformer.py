"""The two models: stock SegFormer with constrained layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import SegformerForImageClassification, SegformerForSemanticSegmentation
from transformers.backbone_utils import filter_output_hidden_states
from transformers.modeling_outputs import BaseModelOutput, SemanticSegmenterOutput
from transformers.models.segformer.modeling_segformer import SegFormerImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from lrsegformer._compat import active_module
from lrsegformer.certification.head import HeadParts
from lrsegformer.errors import InputError
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.merged_maps import MergedMapsMixin
from lrsegformer.layers.registry import build_lipschitz_linear
from lrsegformer.losses import segmentation_loss
from lrsegformer.models.backbone import LRSegformerModel
from lrsegformer.models.certified.classifier import EqualRowsClassifier
from lrsegformer.models.certified.decode_head import CertifiedDecodeHead
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.decode_head import LRSegformerDecodeHead, plain_matrix, refuse_adapter
from lrsegformer.models.eval_mode import Statistics
from lrsegformer.models.head_parts import classifier_parts, decode_head_parts
from lrsegformer.models.jacobian import decode_head_jacobian_penalty, jacobian_penalty
from lrsegformer.models.lipschitz_head import JacobianSample, LipschitzHeadMixin
from lrsegformer.models.to_vanilla import to_vanilla_classification, to_vanilla_segmentation


@dataclass
class LRSegformerSemanticSegmenterOutput(SemanticSegmenterOutput):
    """
    Stock fields, and `lipschitz_penalty` (`torch.Tensor` scalar, or `None` where there is none).

    `loss` is the task loss alone; [`LRSegformerTrainer`] adds the weighted penalty.
    """

    lipschitz_penalty: torch.Tensor | None = None


@dataclass
class LRSegformerImageClassifierOutput(SegFormerImageClassifierOutput):
    """
    Stock fields, and `lipschitz_penalty` (`torch.Tensor` scalar, or `None` where there is none).

    `loss` is the task loss alone; [`LRSegformerTrainer`] adds the weighted penalty.
    """

    lipschitz_penalty: torch.Tensor | None = None


class ClassifierMaps(NamedTuple):
    """The classifier as a matrix `(num_labels, channels)` and a bias."""

    weight: torch.Tensor
    bias: torch.Tensor


class LRSegformerForSemanticSegmentation(LipschitzHeadMixin, SegformerForSemanticSegmentation):
    """
    SegFormer for semantic segmentation whose decode head, and on request whose encoder, is Lipschitz-constrained as
    the configuration says.

    Without a strategy it is the stock model, with the head computed in a cheaper order. Loads MiT backbones, stock
    SegFormer checkpoints (constants start at the loaded norms) and its own.

    Args:
        config ([`LRSegformerConfig`]):
            The architecture, the strategy, and its scope. Its `reshape_last_stage` is set to `True`: the head takes
            maps, and the stock head, which would read a flat last stage, takes its side from the channels.
    """

    def __init__(self, config: LRSegformerConfig):
        config.reshape_last_stage = True
        # Past the parent, which would make an encoder and a head of its own and draw random numbers for them.
        super(SegformerForSemanticSegmentation, self).__init__(config)
        self.segformer = LRSegformerModel(config)
        self.decode_head = (CertifiedDecodeHead if self.is_certified() else LRSegformerDecodeHead)(config)
        if self.is_certified():
            self._keep_in_fp32_modules_strict = ["segformer", "decode_head"]
        elif config.lipschitz_strategy is not None:
            constrained = (
                "decode_head.linear_projections" if config.lipschitz_scope == "projections" else "decode_head"
            )
            self._keep_in_fp32_modules_strict = [constrained]
        self.post_init()

    def head_penalty_factors(self) -> list[list[LipschitzConstraint]]:
        if self.is_certified():
            return self.all_layers_apart()
        projections, fuse, _, classifier = active_module(self.decode_head).active_layers()
        groups = [projections, [fuse], [classifier]]
        return [[layer for layer in group if isinstance(layer, LipschitzConstraint)] for group in groups]

    def row_scale_of(self, layer: LipschitzConstraint) -> torch.Tensor | None:
        if self.is_certified():
            return None
        head = active_module(self.decode_head)
        return head.fuse_row_scale() if layer is head.active_layers().fuse else None

    def head_parts(self, dtype: torch.dtype) -> HeadParts:
        return decode_head_parts(active_module(self.decode_head), dtype)

    def _initial_std(self, module: LipschitzConstraint) -> float:
        # With the variance frozen nothing rescales the fused features: keep their variance from layer to layer. The
        # classifier starts small, as in the stock model.
        in_head = any(module is each for each in self.decode_head.modules())
        if self.config.constrains_whole_head and in_head and module is not self.decode_head.classifier:
            return 1 / math.sqrt(module.weight.shape[1])
        return super()._initial_std(module)

    @can_return_tuple
    @filter_output_hidden_states
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        jacobian_seeds: torch.Tensor | None = None,
        jacobian_weights: torch.Tensor | None = None,
        **kwargs,
    ) -> LRSegformerSemanticSegmenterOutput | tuple:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): normalised images.
            labels (`torch.Tensor` of shape `(batch, label_height, label_width)`, *optional*):
                Any integer dtype and any size; the ignore index and negative values do not count.
            jacobian_seeds, jacobian_weights (`torch.Tensor` of shape `(batch,)`, *optional*):
                Of the penalty on the network's Jacobian: int64 seeds of the images' directions, and the images'
                weights in its mean, where 0 leaves an image out. By default from the pixels, and all 1.
            kwargs: `output_hidden_states`, `output_attentions` and `return_dict`, as in the stock model.

        Returns:
            [`LRSegformerSemanticSegmenterOutput`]: logits at a quarter of the input's size, the task loss where labels
            are given, and the penalty in training mode and where labels are given (a Jacobian's: in training mode).
        """
        sample = JacobianSample(jacobian_seeds, jacobian_weights)
        outputs = self.segformer(pixel_values, return_dict=True, **kwargs)
        features = outputs.hidden_states
        if self.is_certified():
            logits, fused = self.decode_head(features, pixel_values.shape[2:]), None
        elif self.training and self._penalized_jacobian() == "head":
            logits, fused = self.decode_head(features, return_fused=True)
        else:
            logits, fused = self.decode_head(features), None
        loss = None
        if labels is not None:
            loss = segmentation_loss(
                logits,
                labels,
                self.config.semantic_loss_ignore_index,
                self.config.semantic_loss_class_weights,
                self.config.semantic_loss_label_smoothing,
                self.logit_margins(outputs.last_hidden_state),
            )
        return LRSegformerSemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=features,
            attentions=outputs.attentions,
            lipschitz_penalty=self._penalty(
                pixel_values, labels, sample, self._head_jacobian_penalty, features, fused
            ),
        )

    def _batch_statistics(
        self, features: Sequence[torch.Tensor], fused: torch.Tensor | None
    ) -> dict[torch.nn.Module, Statistics]:
        return {} if self.is_certified() else active_module(self.decode_head).batch_statistics(features, fused)

    def _head_jacobian_penalty(
        self, seeds: torch.Tensor, features: Sequence[torch.Tensor], fused: torch.Tensor
    ) -> torch.Tensor:
        return decode_head_jacobian_penalty(active_module(self.decode_head), features, fused, seeds)

    def merge(self) -> "LRSegformerForSemanticSegmentation":
        """
        Set eval mode and compute effective weights, and the products of the head's, once, not in every forward pass.

        A snapshot of the weights as they are now ([`~lrsegformer.layers.merged_maps.MergedMapsMixin`]); `train()` ends
        it. For a model that is a stock one for good there is [`to_vanilla`].
        """
        self.eval()
        if self.is_certified():
            self.keep_certified_maps()
            return self
        active_module(self.decode_head).keep_maps()
        self._keep_encoder_weights()
        return self

    def to_vanilla(self) -> SegformerForSemanticSegmentation:
        """The stock class with equal logits in eval mode; nothing is constrained any more. The weights are copies."""
        self.refuse_export_to_stock()
        return to_vanilla_segmentation(self)


class LRSegformerForImageClassification(MergedMapsMixin, LipschitzHeadMixin, SegformerForImageClassification):
    """
    SegFormer for image classification whose classifier, and on request whose encoder, is Lipschitz-constrained as the
    configuration says.

    The head is the mean over the last stage's positions and the classifier; the constraint bounds the classifier.

    Args:
        config ([`LRSegformerConfig`]):
            The architecture, the strategy, and its scope, which cannot be `"projections"`: there are none.
    """

    weights_of_maps = "classifier"

    def __init__(self, config: LRSegformerConfig):
        super(SegformerForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.segformer = LRSegformerModel(config)
        if self.is_certified():
            self.classifier = EqualRowsClassifier(config, config.hidden_sizes[-1])
            self._keep_in_fp32_modules_strict = ["segformer", "classifier"]
        elif config.lipschitz_strategy is None:
            self.classifier = torch.nn.Linear(config.hidden_sizes[-1], config.num_labels)
        else:
            if not config.constrains_whole_head:
                raise InputError(
                    f"lipschitz_scope {config.lipschitz_scope!r} names projections of the decode head, and a "
                    "classification model has none: use lipschitz_scope 'head' or 'network'."
                )
            options = config.lipschitz_options or {}
            channels = config.hidden_sizes[-1]
            self.classifier = build_lipschitz_linear(config.lipschitz_strategy, channels, config.num_labels, **options)
            self._keep_in_fp32_modules_strict = ["classifier"]
        self.post_init()

    def head_penalty_factors(self) -> list[list[LipschitzConstraint]]:
        if self.is_certified():
            return self.all_layers_apart()
        classifier = active_module(self.classifier)
        return [[classifier]] if isinstance(classifier, LipschitzConstraint) else []

    def head_parts(self, dtype: torch.dtype) -> HeadParts:
        return classifier_parts(active_module(self.classifier), dtype)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        jacobian_seeds: torch.Tensor | None = None,
        jacobian_weights: torch.Tensor | None = None,
        **kwargs,
    ) -> LRSegformerImageClassifierOutput | tuple:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): normalised images.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*):
                Class indices; numbers for `problem_type="regression"`, and zeros and ones of shape
                `(batch, num_labels)` for `"multi_label_classification"`.
            jacobian_seeds, jacobian_weights (`torch.Tensor` of shape `(batch,)`, *optional*):
                Of the penalty on the network's Jacobian: int64 seeds of the images' directions, and the images'
                weights in its mean, where 0 leaves an image out. By default from the pixels, and all 1.
            kwargs: `output_hidden_states`, `output_attentions` and `return_dict`, as in the stock model.

        Returns:
            [`LRSegformerImageClassifierOutput`]: logits, the task loss where labels are given (the mean over the
            batch), and the penalty in training mode and where labels are given (a Jacobian's: in training mode).
        """
        sample = JacobianSample(jacobian_seeds, jacobian_weights)
        outputs = self.segformer(pixel_values, return_dict=True, **kwargs)
        last_stage = outputs.last_hidden_state
        if self.config.reshape_last_stage or self.is_certified():
            last_stage = last_stage.permute(0, 2, 3, 1)
        pooled = last_stage.reshape(last_stage.shape[0], -1, self.config.hidden_sizes[-1]).mean(dim=1)
        logits = self._classified(pooled)
        return LRSegformerImageClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels, outputs, **kwargs),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            lipschitz_penalty=self._penalty(pixel_values, labels, sample, self._head_jacobian_penalty, pooled),
        )

    def _head_jacobian_penalty(self, seeds: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        return jacobian_penalty(self.classifier, pooled, seeds)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, outputs: BaseModelOutput, **kwargs) -> torch.Tensor:
        try:
            return self._task_loss(self._shifted(logits, labels, outputs), labels, **kwargs)
        except IndexError:  # On a CPU; other devices stop the program by themselves.
            raise InputError(
                f"labels from {labels.min()} to {labels.max()} in a batch, but the model has {self.num_labels} "
                f"classes: labels are 0 to {self.num_labels - 1}."
            ) from None

    def _shifted(self, logits: torch.Tensor, labels: torch.Tensor, outputs: BaseModelOutput) -> torch.Tensor:
        """Logits less the lead that the loss asks of the label's class; the ones given where it asks for none."""
        margins = self.logit_margins(outputs.last_hidden_state)
        return logits if margins is None else logits + margins[labels].to(logits.dtype)

    def _task_loss(self, logits: torch.Tensor, labels: torch.Tensor, **kwargs) -> torch.Tensor:
        weights = self.config.semantic_loss_class_weights
        if weights is None:
            return self.loss_function(labels, logits, self.config, **kwargs)
        logits = logits.float()
        return torch.nn.functional.cross_entropy(logits, labels, weight=logits.new_tensor(weights))

    def _classified(self, pooled: torch.Tensor) -> torch.Tensor:
        if self.is_certified():
            return torch.nn.functional.linear(pooled, self.classifier.rows().to(pooled.dtype), self.classifier.bias)
        maps = None if self.training else self.constant_maps()
        if maps is None:
            if self.config.lipschitz_strategy is not None:
                refuse_adapter(active_module(self.classifier))
            return self.classifier(pooled)
        return torch.nn.functional.linear(pooled, maps.weight.to(pooled.dtype), maps.bias.to(pooled.dtype))

    def eval_maps(self) -> ClassifierMaps:
        classifier = active_module(self.classifier)
        return ClassifierMaps(plain_matrix(classifier), classifier.bias)

    def merge(self) -> "LRSegformerForImageClassification":
        """As [`LRSegformerForSemanticSegmentation.merge`]: set eval mode and compute the effective weight once."""
        self.eval()
        if self.is_certified():
            self.keep_certified_maps()
            return self
        self.keep_maps()
        self._keep_encoder_weights()
        return self

    def to_vanilla(self) -> SegformerForImageClassification:
        """The stock class with equal logits; nothing is constrained any more. The weights are copies."""
        self.refuse_export_to_stock()
        return to_vanilla_classification(self)
