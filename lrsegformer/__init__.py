"""
LRSegformer: fine-tune SegFormer with Lipschitz-constrained heads on Hugging Face.

`import lrsegformer` makes the models known to transformers' Auto classes and pipelines.
"""

import os
from importlib import import_module

from lrsegformer._lazy import lazy_attributes

__version__ = "0.1.0"

_HOMES = {
    "STRATEGIES": "layers",
    "build_lipschitz_linear": "layers",
    "InputError": "errors",
    "LRSegformerConfig": "models",
    "LRSegformerForImageClassification": "models",
    "LRSegformerForSemanticSegmentation": "models",
    "LRSegformerTrainer": "training",
    "LRSegformerTrainingArguments": "training",
}

__all__ = ["__version__", *_HOMES]
__getattr__ = lazy_attributes(__name__, _HOMES)


# Registering takes torch and transformers, seconds that `--help` does not have: the command lines set this mark before
# they import the package, and load the models once they have parsed their arguments. Removed, so that no child
# inherits it.
if os.environ.pop("LRSEGFORMER_PARSE_ONLY", None) is None:
    import_module("lrsegformer.models")
