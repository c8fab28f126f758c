"""A model of ours as one of the stock classes, with equal logits."""

import torch
from transformers import SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from lrsegformer._compat import active_module, plain_tensors
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig, without_ours
from lrsegformer.models.decode_head import plain_matrix
from lrsegformer.models.normalization import CenteringBatchNorm2d

_TYPE_FIELDS = ("model_type", "architectures", "auto_map", "transformers_version")


def to_vanilla_config(config: LRSegformerConfig) -> SegformerConfig:
    """The stock configuration of the same architecture and labels."""
    values = without_ours(config.to_dict())
    return SegformerConfig(**{name: value for name, value in values.items() if name not in _TYPE_FIELDS})


@torch.no_grad()
def to_vanilla_segmentation(model: SegformerForSemanticSegmentation) -> SegformerForSemanticSegmentation:
    """
    A stock model with equal logits in eval mode, from one of ours.

    Under scope `"head"` the scale of the norm is inside the exported fuse convolution, so the exported BatchNorm has
    scale 1; in training mode it is plain BatchNorm again.
    """
    head = active_module(model.decode_head)
    projections, fuse, norm, classifier = head.active_layers()
    state = _without_constants(model)
    for index, projection in enumerate(projections):
        state[f"decode_head.linear_projections.{index}.proj.weight"] = plain_matrix(projection)
    state["decode_head.linear_fuse.weight"] = plain_matrix(fuse, head.fuse_row_scale())[:, :, None, None]
    state["decode_head.classifier.weight"] = plain_matrix(classifier)[:, :, None, None]
    if isinstance(norm, CenteringBatchNorm2d):
        state["decode_head.batch_norm.running_mean"] = norm.row_scale() * norm.running_mean.float()
        state["decode_head.batch_norm.weight"] = torch.ones_like(norm.weight)
        state["decode_head.batch_norm.running_var"] = torch.full_like(norm.running_var, 1 - norm.eps)
    return _filled(SegformerForSemanticSegmentation(to_vanilla_config(model.config)), state, model)


@torch.no_grad()
def to_vanilla_classification(model: SegformerForImageClassification) -> SegformerForImageClassification:
    """A stock model with equal logits, from one of ours."""
    state = _without_constants(model)
    state["classifier.weight"] = plain_matrix(model.classifier)
    return _filled(SegformerForImageClassification(to_vanilla_config(model.config)), state, model)


def _without_constants(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the stock model, the encoder's weights the effective ones; those of the head are still raw."""
    tensors = {name: tensor.clone() for name, tensor in plain_tensors(model).items() if not name.endswith(".c")}
    if model.config.constrains_encoder:
        for name, layer in model.segformer.named_modules():
            if isinstance(layer, LipschitzConstraint):
                tensors[f"segformer.{name}.weight"] = layer.effective_weight().view_as(layer.weight)
    return tensors


def _filled(vanilla: torch.nn.Module, state: dict[str, torch.Tensor], model: torch.nn.Module) -> torch.nn.Module:
    vanilla.load_state_dict(state, strict=True)
    return vanilla.to(device=model.device, dtype=model.dtype).train(model.training)
