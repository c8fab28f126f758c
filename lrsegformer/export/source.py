"""The model that is exported: ours, or a stock SegFormer read as ours without a constraint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from lrsegformer.choices import Task
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig, without_ours
from lrsegformer.models.encoder.certified import total_stride
from lrsegformer.models.loading import MODEL_CLASSES, LipschitzModel
from lrsegformer.robustness.bench.checkpoints import find_checkpoints, load_checkpoint, scoring_processor

# What messages call the model of the command line.
OPTION = "MODEL"


@dataclass(frozen=True)
class Source:
    """
    A saved model with all that its exports are made of and checked against.

    Attributes:
        label (`str`): the folder's last part, or the Hub id.
        task (`str`): `"segmentation"` or `"classification"`.
        saved (`PreTrainedModel`): the model as its files give it, ours or stock, float32, in eval mode; what an
            export has to agree with.
        model: the same as one of our classes; `saved` itself where it is.
        processor (`BaseImageProcessor`): makes the inputs of the model's scores.
        class_names (`tuple[str, ...]`): in the order of the logits.
    """

    label: str
    task: Task
    saved: PreTrainedModel
    model: LipschitzModel
    processor: BaseImageProcessor
    class_names: tuple[str, ...]

    @property
    def multiple(self) -> int:
        """
        What height and width of an export of any size have to be multiples of. A certified network pads its image; in
        a graph of any size that is left to who calls it.
        """
        return total_stride(self.model.config) if self.model.is_certified() else 1

    @torch.no_grad()
    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Of the saved model, in eager mode, from normalised images `(batch, channels, height, width)`."""
        return self.saved(pixel_values=pixel_values).logits


def open_source(name: str) -> Source:
    """
    Load a model from a folder or the Hub.

    Raises:
        [`~lrsegformer.errors.InputError`]: it cannot be reached or read, is no SegFormer with a head, or has no
        processor.
    """
    (checkpoint,) = find_checkpoints([name], OPTION)
    processor = scoring_processor(checkpoint, None)
    saved = load_checkpoint(checkpoint)
    model = saved if isinstance(saved.config, LRSegformerConfig) else as_ours(saved, checkpoint.task)
    return Source(checkpoint.label, checkpoint.task, saved, model, processor, checkpoint.class_names)


def as_ours(stock: PreTrainedModel, task: Task) -> LipschitzModel:
    """A stock SegFormer as our class without a constraint, whose head is folded; with copies of its weights."""
    values = {**without_ours(stock.config.to_dict()), "model_type": LRSegformerConfig.model_type}
    model = MODEL_CLASSES[task](LRSegformerConfig.from_dict(values))
    model.load_state_dict(stock.state_dict(), strict=True)
    return model.eval()
