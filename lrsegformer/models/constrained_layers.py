"""What every model with constrained layers shares: which they are, how they start, and its precision."""

import math

import torch
from transformers import initialization as init

from lrsegformer._compat import active_modules, is_adapted
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.models.certified.start import initialise
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.decode_head import refuse_adapter
from lrsegformer.models.encoder.constrained import computing_dtype, refuse_adapters_in


class ConstrainedLayersMixin:
    """The constrained layers of a model and their initialisation, for the encoder and both models."""

    config: LRSegformerConfig
    config_class = LRSegformerConfig

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model computes; constrained weights stay float32 in lower ones."""
        return computing_dtype(self)

    def constrained_layers(self) -> dict[str, LipschitzConstraint]:
        """
        The constrained layers by their names in the model; of those among peft's modules_to_save the active copies.

        Raises:
            [`~lrsegformer.errors.InputError`]: for one with an adapter beside it, which voids its bound.
        """
        if self.config.constrains_encoder:
            refuse_adapters_in(self.base_model)
        layers = {}
        for name, module in active_modules(self):
            if isinstance(module, LipschitzConstraint):
                layers[name] = module
            elif is_adapted(module) and isinstance(module.get_base_layer(), LipschitzConstraint):
                refuse_adapter(module)
        return layers

    def row_scale_of(self, layer: LipschitzConstraint) -> torch.Tensor | None:
        """Factors of the layer's rows that its constraint includes, or `None`."""
        return None

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """Initialise the tensors of `module` that were not loaded; `c`, if it was not, from the weight that was."""
        if not isinstance(module, LipschitzConstraint):
            if not initialise(module):
                super()._init_weights(module)
            return
        init.normal_(module.weight, mean=0.0, std=self._initial_std(module))
        if module.bias is not None:
            init.zeros_(module.bias)
        if not (_was_loaded(module, "c") and _was_loaded(module, "weight")):
            # A constant that was loaded without its weight belongs to a classifier of another size.
            module.start_from_weight(self.row_scale_of(module))

    def _initial_std(self, module: LipschitzConstraint) -> float:
        # A certified network has no normalisation to bring the signal to scale.
        return 1 / math.sqrt(module.weight.shape[1]) if self.config.is_certified else self.config.initializer_range


def _was_loaded(module: torch.nn.Module, name: str) -> bool:
    tensor = getattr(module, name, None)
    # transformers marks what it has loaded from a file; its init functions read the same mark.
    return tensor is not None and getattr(tensor, "_is_hf_initialized", False)
