"""Scope "network": the stock encoder, each of its linear maps and convolutions a constrained layer."""

import torch
from torch import nn
from transformers import SegformerModel

from lrsegformer._compat import active_module, is_adapted
from lrsegformer.errors import InputError
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.layers.registry import STRATEGIES
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig


def constrain_encoder(encoder: SegformerModel, config: LRSegformerConfig) -> list[str]:
    """
    Put constrained layers in the places of all linear layers and convolutions of a stock encoder: patch embeddings, q,
    k, v and output of the attention, sequence reduction, and the Mix-FFN with its depthwise convolution. LayerNorm and
    the product of q and k stay, so that each map is bounded and the encoder is not.

    The new layers have weights of their own, yet to be initialised or loaded; their tensors have the stock names.

    Returns:
        The ends of the layers' names, two parts each, which no other layer has.
    """
    options = config.lipschitz_options or {}
    linear_class = STRATEGIES[config.lipschitz_strategy]
    ends = []
    for name, plain in list(encoder.named_modules()):
        if isinstance(plain, nn.Linear):
            layer = linear_class(plain.in_features, plain.out_features, bias=plain.bias is not None, **options)
        elif isinstance(plain, nn.Conv2d):
            geometry = {"stride": plain.stride, "padding": plain.padding, "groups": plain.groups}
            layer = linear_class.conv2d_class(
                plain.in_channels, plain.out_channels, plain.kernel_size, **geometry, **options
            )
        else:
            continue
        layer.constant_in_exports = True
        parent, _, own_name = name.rpartition(".")
        setattr(encoder.get_submodule(parent), own_name, layer)
        ends.append(".".join(name.split(".")[-2:]))
    return sorted(set(ends))


def encoder_penalty_factors(encoder: SegformerModel) -> list[list[LipschitzConstraint]]:
    """
    The constrained layers whose constants are penalised, in groups as `constants_penalty` takes them: q and k side by
    side, all others as they follow each other.

    Patch embeddings and sequence reductions are not among them: a LayerNorm comes next and divides by whatever scale
    they have, so that their constants could fall without end and change nothing.
    """
    factors = []
    for stage in encoder.stages:
        for block in stage.blocks:
            attention, mlp = block.attention, block.mlp
            chain = (attention.v_proj, attention.o_proj, mlp.fc1, mlp.dwconv.dwconv, mlp.fc2)
            factors.append([active_module(attention.q_proj), active_module(attention.k_proj)])
            factors += [[active_module(layer)] for layer in chain]
    return factors


def encoder_layers(encoder: nn.Module) -> list[LipschitzConstraint]:
    """All constrained layers of an encoder."""
    return [layer for layer in encoder.modules() if isinstance(layer, LipschitzConstraint)]


def refuse_adapters_in(encoder: nn.Module) -> None:
    """
    Refuse an encoder with an adapter of peft beside a constrained layer.

    Raises:
        [`~lrsegformer.errors.InputError`]: what the adapter adds would lie outside the constraint.
    """
    for module in encoder.modules():
        if is_adapted(module) and isinstance(module.get_base_layer(), LipschitzConstraint):
            raise InputError(
                f"an adapter ({type(module).__name__} of peft) sits on the encoder's layer "
                f"{type(module.get_base_layer()).__name__}, outside its constraint, and the bound would not hold: "
                "under scope 'network' train the encoder whole, without an adapter on it; under scope 'head' its "
                "layers are plain and take one."
            )


def computing_dtype(model: nn.Module) -> torch.dtype:
    """The precision in which a model computes: that of its plain parameters, as constrained ones stay float32."""
    constrained = None
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                if not isinstance(module, LipschitzConstraint):
                    return parameter.dtype
                constrained = constrained or parameter.dtype
    return constrained
