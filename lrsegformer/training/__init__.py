"""Arguments, Trainer, and the fine-tuning run. The classes are imported when they are asked for."""

from lrsegformer._lazy import lazy_attributes

_HOMES = {
    "LRSegformerTrainer": "trainer",
    "LRSegformerTrainingArguments": "training_arguments",
}

__all__ = list(_HOMES)
__getattr__ = lazy_attributes(__name__, _HOMES)
