"""
LRSegformer: fine-tune SegFormer with Lipschitz-constrained heads on Hugging Face.

`import lrsegformer` makes the models known to transformers' Auto classes and pipelines.
"""

import os
from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "STRATEGIES": "lrsegformer.layers",
    "build_lipschitz_linear": "lrsegformer.layers",
    "InputError": "lrsegformer.errors",
    "LRSegformerConfig": "lrsegformer.models",
    "LRSegformerForImageClassification": "lrsegformer.models",
    "LRSegformerForSemanticSegmentation": "lrsegformer.models",
    "LRSegformerTrainer": "lrsegformer.training",
    "LRSegformerTrainingArguments": "lrsegformer.training",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


# Registering takes torch and transformers, seconds that `--help` does not have: the command lines set this mark before
# they import the package, and load the models once they have parsed their arguments. Removed, so that no child
# inherits it.
if os.environ.pop("LRSEGFORMER_PARSE_ONLY", None) is None:
    import_module("lrsegformer.models")
