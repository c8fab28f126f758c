"""
Every place where the package touches internals of transformers and peft, each with the upstream issue that makes it
necessary; those of transformers' Trainer and of accelerate are in `_compat_trainer.py`.

Each has a test in `tests/test_compat.py` that fails when the workaround is no longer needed.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.auto import modeling_auto

from lrsegformer.errors import InputError, NotFiniteError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ARGUMENTS_FILE = "training_args.bin"


def register_key_renaming(class_name: str, stock_class_name: str) -> None:
    """
    Give a subclass the checkpoint key renaming of its stock parent.

    transformers 5 keeps the old key names of SegFormer in files and finds the renaming by the name of the class, so
    that a subclass silently loses the pretrained decode head (huggingface/transformers#46876).
    """
    mapping = get_checkpoint_conversion_mapping(stock_class_name)
    if mapping is not None:
        register_checkpoint_conversion_mapping(class_name, mapping, overwrite=True)


def register_pipeline_names(
    model_type: str, backbone_class: str, segmentation_class: str, classification_class: str
) -> None:
    """
    Name the model classes in the tables that pipelines read.

    `pipeline("image-segmentation")` copies a static table and never looks at `AutoModel.register`, so that a
    registered model works but logs an error that it is not supported (huggingface/transformers#25453 is the nearest
    report).
    """
    modeling_auto.MODEL_MAPPING_NAMES[model_type] = backbone_class
    modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[model_type] = segmentation_class
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type] = classification_class


def from_pretrained_strictly(
    model_class: "type[PreTrainedModel]", name: str | Path, **options: Any
) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """
    `from_pretrained` with `output_loading_info`, which counts every tensor that the files lack as missing.

    A class of ours leaves its constants out of that count (`_keys_to_ignore_on_load_missing`), as those of a stock
    checkpoint start at the norms of its weights; with those of a model that is run as it is, its constraint is lost.
    """
    # By its name, and for a stock one by its module, transformers finds the renaming of keys.
    attributes = {"_keys_to_ignore_on_load_missing": None, "__module__": model_class.__module__}
    strict_class = type(model_class.__name__, (model_class,), attributes)
    model, info = strict_class.from_pretrained(name, output_loading_info=True, **options)
    model.__class__ = model_class
    return model, info


def load_checkpoint_strictly(model: "PreTrainedModel", folder: str | Path) -> None:
    """
    Load the weights saved in `folder` into `model`, every tensor, or raise.

    The Trainer of transformers 5.23 loads checkpoints with `load_state_dict(strict=False)` and without the key
    renaming that the file was saved with, so that 116 of 124 tensors of a SegFormer stay as they were (no upstream
    issue found; the renaming is huggingface/transformers#46876). `from_pretrained` renames, so the weights go through
    it.
    """
    loaded, info = from_pretrained_strictly(
        type(model), folder, config=model.config, dtype=model.dtype, local_files_only=True
    )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or unexpected:
        raise InputError(
            f"The checkpoint {folder} does not fit the model: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}."
        )
    tensors = loaded.state_dict()
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise NotFiniteError(
            f"The checkpoint {folder} holds values that are not finite (in {wrong[0]}): go on from an earlier one."
        )
    model.load_state_dict(tensors, strict=True)


def remove_autocast(model: "torch.nn.Module") -> None:
    """
    Give a model its own forward back, which `Accelerator.prepare_model` has wrapped in autocast.

    accelerate 1.15's `unwrap_model(keep_fp32_wrapper=False)` looks for the own forward by comparing functions with a
    bound method, does not find it, and takes the decorators of the own forward off as well: hidden states are no
    longer handed out (we found no upstream issue).
    """
    own_forward = model.__dict__.pop("_original_forward", None)
    if own_forward is not None:
        del model.forward
        if model.forward != own_forward:
            model.forward = own_forward


def active_module(module: nn.Module) -> nn.Module:
    """
    The module that a call of `module` goes to: itself, or where peft has wrapped it, the one of the active adapter.

    peft keeps the original beside the copy of each adapter, and walking the modules finds them all. A layer with an
    active adapter of low rank is returned as the wrapper that it is: no module of its own computes what it does
    ([`is_adapted`]). peft has no public way to ask (we found no upstream issue).
    """
    while _is_of_peft(module):
        if hasattr(module, "original_module"):  # modules_to_save
            saved, active = module.modules_to_save, module.active_adapters
            passes = module.disable_adapters or not active or any(name not in saved for name in active)
            module = module.original_module if passes else saved[active[0]]
        elif hasattr(module, "base_layer") and not is_adapted(module):
            module = module.base_layer
        else:
            break
    return module


def is_adapted(module: nn.Module) -> bool:
    """Whether `module` is a layer of peft that adds something to its base layer; once merged into it, it does not."""
    if not (_is_of_peft(module) and hasattr(module, "base_layer")):
        return False
    present = set(module.active_adapters) & module._get_available_adapters()
    return bool(present) and not (module.disable_adapters or module.merged)


def active_modules(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """As `named_modules`, but of each module that peft has wrapped the active one alone, under the name it had."""
    module = active_module(module)
    yield name, module
    if not is_adapted(module):
        for child_name, child in module.named_children():
            yield from active_modules(child, f"{name}.{child_name}" if name else child_name)


def plain_tensors(module: nn.Module) -> dict[str, Any]:
    """The state dict that `module` would have without peft's wrappers, adapters of the encoder merged into copies."""
    tensors = {}
    for name, each in active_modules(module):
        prefix = f"{name}." if name else ""
        if is_adapted(each):
            merged = copy.deepcopy(each)
            merged.merge()
            tensors |= {prefix + key: value for key, value in merged.get_base_layer().state_dict().items()}
        else:
            own = {**each._parameters, **each._buffers}
            kept = {key: value for key, value in own.items() if key not in each._non_persistent_buffers_set}
            tensors |= {prefix + key: value.detach() for key, value in kept.items() if value is not None}
    return tensors


def _is_of_peft(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "peft"
