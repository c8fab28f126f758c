"""Low-rank adapters of peft on the encoder's linear layers, the head trained whole beside them."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lrsegformer.choices import Task
from lrsegformer.errors import InputError
from lrsegformer.extras import require
from lrsegformer.layers.base import LipschitzConstraint

if TYPE_CHECKING:
    from peft import PeftModel

ALL_LINEAR = "all-linear"
# Of a run's folder: the adapters and the trained head by themselves.
ADAPTER_FOLDER = "adapter"
# What is trained whole, and saved with the adapters.
HEADS: dict[Task, str] = {"segmentation": "decode_head", "classification": "classifier"}

_README = """\
---
library_name: peft
---

# Adapters and head of a LRSegformer

What was trained, without the weights that were not: low-rank adapters of the encoder, and the whole head with its
constants. The folder above holds the model in which they are merged, which needs no peft.

```python
import lrsegformer  # noqa: F401  (registers the model classes)
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSemanticSegmentation  # or AutoModelForImageClassification

config = AutoConfig.from_pretrained("..")  # the classes and the constraint of the run
base = AutoModelForSemanticSegmentation.from_pretrained({base}, config=config, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(base, ".").eval()
```

The base is what training started from; its head is replaced by the trained one.
"""


def add_adapters(
    model: nn.Module, task: Task, rank: int, alpha: int | None, dropout: float, targets: Sequence[str]
) -> PeftModel:
    """
    Wrap a model by peft: adapters on the encoder's linear layers, the head a trained copy, all else frozen.

    The head's constraint is as without the wrapper: its layers, their constants among them, are trained whole
    (`modules_to_save`), and the bound holds. At the start the logits are unchanged, as an adapter begins at 0.

    Args:
        model: ours, of a scope that leaves the encoder unconstrained.
        task (`str`): `"segmentation"` or `"classification"`.
        rank (`int`): of the adapters' product.
        alpha (`int`, *optional*): the product is multiplied by `alpha / rank`; by default by 2.
        dropout (`float`): in front of the adapters.
        targets (sequence of `str`): ends of the layers' names, such as `"q_proj"`, or `"all-linear"` alone.

    Raises:
        [`~lrsegformer.errors.InputError`]: peft is missing; a target is no linear layer of the encoder, or a
            constrained one.
    """
    peft = require("peft")
    names = _target_names(model.segformer, targets)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules="|".join(re.escape(f"segformer.{name}") for name in names),
        modules_to_save=[HEADS[task]],
    )
    return peft.get_peft_model(model, config)


def _target_names(encoder: nn.Module, targets: Sequence[str]) -> list[str]:
    """The linear layers of the encoder that the targets name."""
    layers = {name: layer for name, layer in encoder.named_modules() if isinstance(layer, nn.Linear)}
    chosen = list(layers) if list(targets) == [ALL_LINEAR] else []
    for target in targets if not chosen else ():
        found = [name for name in layers if name == target or name.endswith(f".{target}")]
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise InputError(
                f"--lora_target_modules {target!r} is no linear layer of the encoder: choose among {', '.join(ends)}, "
                f"or {ALL_LINEAR}; the head is trained whole."
            )
        chosen += found
    for name in chosen:
        if isinstance(layers[name], LipschitzConstraint):
            raise InputError(
                f"--lora_r: the encoder's layer {name} is constrained, and an adapter beside it would lie outside its "
                "constraint; use scope 'head' or 'projections'."
            )
    return list(dict.fromkeys(chosen))


def trained_share(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are in the model that is saved."""
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    originals = sum(math.prod(each.shape) for name, each in model.named_parameters() if ".original_module." in name)
    return trained, sum(each.numel() for each in model.parameters()) - originals


def save_adapters(model: PeftModel, folder: Path, base_model: str) -> None:
    """
    Save the adapters and the trained head as peft does, and a `README.md` that says what they belong to.

    Args:
        folder (`Path`): inside the run's folder, whose configuration the base is loaded with.
        base_model (`str`): what training started from; of a folder the last part is told.
    """
    model.save_pretrained(str(folder))
    base = Path(base_model).name if os.path.exists(base_model) else base_model
    folder.joinpath("README.md").write_text(_README.format(base=json.dumps(base)), encoding="utf-8")


@torch.no_grad()
def merged(model: PeftModel) -> nn.Module:
    """
    The model without peft, each adapter added to its layer's weight in the precision of the weights, by peft itself.

    Raises:
        `ValueError`: peft's, where a merged weight is not finite.
    """
    return model.merge_and_unload(safe_merge=True)
