"""Which task a model has. Nothing else looks for a decode head, or for a name, to know it."""

from torch import nn
from transformers import PretrainedConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from lrsegformer.choices import Task
from lrsegformer.errors import InputError

# Ours are subclasses of the stock ones, and their names end alike.
STOCK_CLASSES: dict[Task, type[nn.Module]] = {
    "segmentation": SegformerForSemanticSegmentation,
    "classification": SegformerForImageClassification,
}


def task_of(model: nn.Module) -> Task:
    """
    The task of a SegFormer, ours or stock, by itself or inside a wrapper (peft's, of several processes, a compiled
    one).

    Raises:
        [`~lrsegformer.errors.InputError`]: there is none in it, or one without a head.
    """
    for module in model.modules():
        for task, stock_class in STOCK_CLASSES.items():
            if isinstance(module, stock_class):
                return task
    raise InputError(
        f"a {type(model).__name__} is no SegFormer with a head: give (LR)SegformerForSemanticSegmentation or "
        "(LR)SegformerForImageClassification."
    )


def task_of_config(config: PretrainedConfig) -> Task | None:
    """The task of the model that a configuration was saved with; `None` where that was no SegFormer with a head."""
    for architecture in config.architectures or []:
        for task, stock_class in STOCK_CLASSES.items():
            if architecture.endswith(stock_class.__name__):
                return task
    return None
