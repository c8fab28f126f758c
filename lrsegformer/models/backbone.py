"""SegFormer's encoder on its own: the base model of both tasks, and what `AutoModel` gives."""

import torch
from transformers import SegformerModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.segformer.modeling_segformer import SegformerAttention
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.constrained_layers import ConstrainedLayersMixin
from lrsegformer.models.encoder.certified import certified_stages
from lrsegformer.models.encoder.constrained import constrain_encoder, refuse_adapters_in


class LRSegformerModel(ConstrainedLayersMixin, SegformerModel):
    """
    The stock encoder under our configuration.

    It collects the outputs of its stages as it goes. The stock model collects them by hooks, which are functions
    inside functions: a model that has them cannot be pickled, and their installation breaks a compiled graph.

    Under scope `"network"` its linear maps and convolutions are constrained
    ([`~lrsegformer.models.encoder.constrained.constrain_encoder`]).

    Args:
        config ([`LRSegformerConfig`]): the architecture, the strategy, and its scope. Under scope `"certified"` the
            stages are those of [`~lrsegformer.models.encoder.certified.CertifiedStage`].
    """

    _can_record_outputs = {"attentions": SegformerAttention}

    def __init__(self, config: LRSegformerConfig):
        if config.is_certified:
            # Past the parent, which would make stock stages first.
            super(SegformerModel, self).__init__(config)
            self.stages = certified_stages(config)
            self._keep_in_fp32_modules_strict = ["stages"]
            self.post_init()
            return
        super().__init__(config)
        if config.constrains_encoder:
            self._keep_in_fp32_modules_strict = constrain_encoder(self, config)
            # Once more, for the layers that were not there the first time.
            self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs,
    ) -> BaseModelOutput | tuple:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): normalised images.
            output_hidden_states (`bool`, `int` or `list[int]`, *optional*):
                Whether to return the outputs of the stages, or of which (negative from the end; `None` stands in the
                place of the others). By default as the configuration says.
            output_attentions (`bool`, *optional*): whether to return the attention weights of all blocks.
            return_dict (`bool`, *optional*): `False` for a tuple.

        Returns:
            `BaseModelOutput`: the last stage's output, and what was asked for.
        """
        if self.config.constrains_encoder:
            refuse_adapters_in(self)
        hidden_states, outputs = pixel_values, []
        for stage in self.stages:
            hidden_states = stage(hidden_states, **kwargs)
            outputs.append(hidden_states)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=_selected(outputs, wanted))


def _selected(outputs: list[torch.Tensor], wanted: bool | int | list[int]) -> tuple[torch.Tensor | None, ...] | None:
    if not wanted:
        return None
    if wanted is True:
        return tuple(outputs)
    count = len(outputs)
    positions = [wanted] if isinstance(wanted, int) else wanted
    kept = {position % count for position in positions if -count <= position < count}
    return tuple(output if position in kept else None for position, output in enumerate(outputs))
