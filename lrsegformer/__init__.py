"""
LRSegformer: fine-tune SegFormer with Lipschitz-constrained heads on Hugging Face.

`import lrsegformer` makes the models known to transformers' Auto classes and pipelines.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

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
    "Predictor": "inference",
}

__all__ = ["__version__", *_HOMES]
__getattr__ = lazy_attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    """The public names among the others, so that a shell completes them before they are imported."""
    return sorted({*globals(), *__all__})


def _starts_a_command_line() -> bool:
    """
    Whether this import is the first thing that a command line does: of a script, which sets a mark, of `lrsegformer`,
    or of `python -m lrsegformer`, whose file Python has not found yet.
    """
    # Removed, so that no child inherits it.
    marked = os.environ.pop("LRSEGFORMER_PARSE_ONLY", None) is not None
    by_module = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == __name__
    return marked or by_module or Path(*sys.argv[:1]).stem == __name__


# Registering takes torch and transformers, seconds that `--help` does not have: command lines load the models once
# they have parsed their arguments.
if not _starts_a_command_line():
    import_module("lrsegformer.models")
