"""
Every place where the package touches internals of transformers and accelerate, each with the upstream issue that makes
it necessary.

Each has a test in `tests/test_compat.py` that fails when the workaround is no longer needed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.auto import modeling_auto

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def register_key_renaming(class_name: str, stock_class_name: str) -> None:
    """
    Give a subclass the checkpoint key renaming of its stock parent.

    transformers 5 keeps the old key names of SegFormer in files and finds the renaming by the name of the class, so
    that a subclass silently loses the pretrained decode head (huggingface/transformers#46876).
    """
    mapping = get_checkpoint_conversion_mapping(stock_class_name)
    if mapping is not None:
        register_checkpoint_conversion_mapping(class_name, mapping, overwrite=True)


def register_pipeline_names(model_type: str, segmentation_class: str, classification_class: str) -> None:
    """
    Name the model classes in the tables that pipelines read.

    `pipeline("image-segmentation")` copies a static table and never looks at `AutoModel.register`, so that a
    registered model works but logs an error that it is not supported (huggingface/transformers#25453 is the nearest
    report).
    """
    modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[model_type] = segmentation_class
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type] = classification_class


def load_checkpoint_strictly(model: "PreTrainedModel", folder: str | Path) -> None:
    """
    Load the weights saved in `folder` into `model`, every tensor, or raise.

    The Trainer of transformers 5.23 loads checkpoints with `load_state_dict(strict=False)` and without the key
    renaming that the file was saved with, so that 116 of 124 tensors of a SegFormer stay as they were (no upstream
    issue found; the renaming is huggingface/transformers#46876). `from_pretrained` renames, so the weights go through
    it.
    """
    # The class by its name, which finds the renaming, but with every key counted: a missing constant is missing, too.
    strict_class = type(type(model).__name__, (type(model),), {"_keys_to_ignore_on_load_missing": None})
    loaded, info = strict_class.from_pretrained(
        folder, config=model.config, dtype=model.dtype, output_loading_info=True, local_files_only=True
    )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or unexpected:
        raise ValueError(
            f"The checkpoint {folder} does not fit the model: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}."
        )
    model.load_state_dict(loaded.state_dict(), strict=True)


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


class StrictCheckpointMixin:
    """
    For Trainer subclasses: resuming and restoring the best model load every tensor ([`load_checkpoint_strictly`]).

    Sharded (FSDP, DeepSpeed) and adapter (PEFT) checkpoints go the Trainer's own way: they are not renamed.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._loads_plain_weights(resume_from_checkpoint):
            load_checkpoint_strictly(self.accelerator.unwrap_model(self.model), resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        folder = self.state.best_model_checkpoint
        if self._loads_plain_weights(folder):
            load_checkpoint_strictly(self.accelerator.unwrap_model(self.model), folder)
        else:
            super()._load_best_model()

    def _loads_plain_weights(self, folder: str | Path) -> bool:
        weight_files = ("model.safetensors", "model.safetensors.index.json")
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return not sharded and any((Path(folder) / name).is_file() for name in weight_files)
