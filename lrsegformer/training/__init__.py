"""Arguments, Trainer, and the fine-tuning run. The classes are imported when they are asked for."""

from importlib import import_module

_HOMES = {
    "LRSegformerTrainer": "trainer",
    "LRSegformerTrainingArguments": "training_arguments",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lrsegformer.training.{_HOMES[name]}"), name)
