"""The models and their configuration. Importing this package registers them with transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerImageProcessorPil,
)

from lrsegformer._compat import register_key_renaming, register_pipeline_names
from lrsegformer.models.backbone import LRSegformerModel
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.modeling_lrsegformer import (
    LRSegformerForImageClassification,
    LRSegformerForSemanticSegmentation,
)

__all__ = [
    "LRSegformerConfig",
    "LRSegformerForImageClassification",
    "LRSegformerForSemanticSegmentation",
    "LRSegformerModel",
]


def _register() -> None:
    segmentation, classification = LRSegformerForSemanticSegmentation, LRSegformerForImageClassification
    AutoConfig.register(LRSegformerConfig.model_type, LRSegformerConfig, exist_ok=True)
    AutoModel.register(LRSegformerConfig, LRSegformerModel, exist_ok=True)
    AutoModelForSemanticSegmentation.register(LRSegformerConfig, segmentation, exist_ok=True)
    AutoModelForImageClassification.register(LRSegformerConfig, classification, exist_ok=True)
    processors = {"pil": SegformerImageProcessorPil}
    AutoImageProcessor.register(LRSegformerConfig, image_processor_classes=processors, exist_ok=True)
    register_key_renaming(LRSegformerModel.__name__, "SegformerModel")
    register_key_renaming(segmentation.__name__, "SegformerForSemanticSegmentation")
    register_key_renaming(classification.__name__, "SegformerForImageClassification")
    names = (each.__name__ for each in (LRSegformerModel, segmentation, classification))
    register_pipeline_names(LRSegformerConfig.model_type, *names)


_register()
