"""A stock SegFormer checkpoint: the names that files of SegFormer have had from transformers 4 on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, SegformerForImageClassification, SegformerForSemanticSegmentation

from lrsegformer.errors import InputError
from lrsegformer.export.checks import Agreement, compare
from lrsegformer.export.source import Source

WEIGHTS = "model.safetensors"
_CLASSES = {"segmentation": SegformerForSemanticSegmentation, "classification": SegformerForImageClassification}
# Names of the live modules of transformers 5, which no reader of version 4 knows.
_NEW_NAMES = ("segformer.stages.", "decode_head.linear_projections.")


def write_stock(source: Source, folder: Path) -> list[Agreement]:
    """
    Write `config.json` and `model.safetensors` of the stock model with the logits of `source`, and read them back.

    Constraints and the head's normalisation are multiplied into plain weights. Nothing in the files is constrained any
    more: further training moves them as it likes.

    Returns:
        The logits of the model that was read back beside those of `source`, at three sizes.

    Raises:
        [`~lrsegformer.errors.InputError`]: for a certified network, which no stock model computes; where the logits
            differ.
    """
    vanilla: PreTrainedModel = source.model.to_vanilla()
    vanilla.save_pretrained(folder)
    _check_names(folder)
    again = _CLASSES[source.task].from_pretrained(folder).eval()

    @torch.no_grad()
    def logits_of(pixel_values: torch.Tensor) -> torch.Tensor:
        return again(pixel_values=pixel_values).logits

    return compare(source, logits_of, "the stock checkpoint")


def _check_names(folder: Path) -> None:
    """transformers renames on the way into the file; version 4 could not read what one that does not has written."""
    new = [name for name in load_file(folder / WEIGHTS) if name.startswith(_NEW_NAMES)]
    if new:
        raise InputError(
            f"this version of transformers writes SegFormer's tensors under new names ({new[0]}, ...), which "
            "transformers 4 cannot read: install a version of constraints.txt."
        )
