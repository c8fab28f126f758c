"""The `README.md` beside an exported file: what it is, how it is used, what was checked, what is proven of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrsegformer.certification.text import round_up
from lrsegformer.export.arguments import SMALLEST_SIDE
from lrsegformer.export.checks import Agreement
from lrsegformer.export.onnx_file import OPSET
from lrsegformer.hub.markdown import plain

_TITLES = {
    "stock": "a stock SegFormer checkpoint",
    "onnx": f"ONNX (opset {OPSET})",
    "pt2": "a program of torch.export",
}
_AUTO_CLASSES = {
    "segmentation": "AutoModelForSemanticSegmentation",
    "classification": "AutoModelForImageClassification",
}

_STOCK = """\
`config.json` and `model.safetensors` are those of transformers' own SegFormer, under the names that its files have had
since transformers 4: versions 4 and 5 read them, and this package is not needed. The constraint, and the normalisation
of the head with it, is multiplied into the weights. Nothing constrains them any more: what is proven below is lost by
fine-tuning them further.

```python
from transformers import AutoImageProcessor, {auto_class}

model = {auto_class}.from_pretrained(".")
processor = AutoImageProcessor.from_pretrained(".", backend="pil")  # transformers 5: the inputs of the model's scores
```
{older}"""

# SegFormer's own processor of version 4 resizes to a height and width alone; the size of version 5 by its formula.
_OLDER = """
The image processor of transformers 4 resizes by a short side only where torchvision is installed
(`AutoImageProcessor.from_pretrained(".", use_fast=True)`). Without it, give the size:

```python
least, longest = min(image.size), processor.size["longest_edge"]
short = min(processor.size["shortest_edge"], longest * least / max(image.size))
width, height = (round(short) if side == least else int(short * side / least) for side in image.size)
size = {"height": height, "width": width}
inputs = processor(images=image, size=size, return_tensors="pt")
```
"""

_ONNX = """\
`model.onnx` takes `pixel_values` (float32, batch x {channels} x height x width, normalised) and gives `logits`
(float32) {at}. {sizes} Constraints and the head's linear maps are multiplied out. `metadata_props`
of the file hold the classes, the processor's figures and the bound.

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {{"pixel_values": pixel_values}})
session.get_modelmeta().custom_metadata_map["class_names"]  # JSON, as all that is no text
```
"""

_PT2 = """\
`model.pt2` is loaded by PyTorch alone. It takes `pixel_values` (float32, batch x {channels} x height x width,
normalised) and gives the logits {at}. {sizes} Constraints and the head's linear maps are multiplied out.

```python
import torch

files = {{"metadata.json": ""}}  # is filled with the classes, the processor's figures and the bound
model = torch.export.load("model.pt2", extra_files=files).module()
logits = model(pixel_values)
```
"""


def write_readme(
    path: Path,
    kind: str,
    metadata: dict[str, Any],
    agreements: Sequence[Agreement],
    fixed: tuple[int, int] | None,
) -> None:
    """
    Write the README of one format.

    Args:
        path (`Path`): the file.
        kind (`str`): of `EXPORT_FORMATS`.
        metadata (`dict`): of [`~lrsegformer.export.metadata.metadata_of`].
        agreements (sequence of [`Agreement`]): what was checked.
        fixed (`tuple[int, int]`, *optional*): height and width of the input, where they are fixed.
    """
    constraint = "without a constraint"
    if metadata["strategy"] is not None:
        constraint = f"strategy {metadata['strategy']}, scope {metadata['scope']}"
    versions = ", ".join(f"{package} {number}" for package, number in metadata["exported_by"].items())
    parts = [
        f"# {plain(metadata['model'])} as {_TITLES[kind]}",
        f"A SegFormer for {metadata['task']} ({constraint}), written by {versions}.",
        _use(kind, metadata, fixed).rstrip(),
        f"Inputs: {_inputs(metadata)}",
        f"Classes, in the order of the logits: {', '.join(map(plain, metadata['class_names']))}.",
        "## Checked\n\nBeside the saved model in eager mode, on random images:\n\n"
        + "\n".join(f"- {agreement.text()}" for agreement in agreements),
        f"## Proven\n\n{_proven(metadata['bound'])}",
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _use(kind: str, metadata: dict[str, Any], fixed: tuple[int, int] | None) -> str:
    if kind == "stock":
        older = _OLDER if metadata["task"] == "segmentation" else ""
        return _STOCK.format(auto_class=_AUTO_CLASSES[metadata["task"]], older=older)
    at = "of each image"
    if metadata["task"] == "segmentation":
        at = "at their own resolution: upsample them to the image's size, then take the largest of each pixel"
    sizes = f"Any number of images, and any height and width from {SMALLEST_SIDE} pixels on."
    if metadata["multiple"] > 1:
        sizes = (
            f"Any number of images, whose height and width are multiples of {metadata['multiple']}, from "
            f"{SMALLEST_SIDE} pixels on: pad normalised images with zeros below and at the right, as the network does "
            "itself, and cut the logits."
        )
    if fixed is not None:
        sizes = f"Any number of images, of {fixed[1]}x{fixed[0]} pixels."
    return {"onnx": _ONNX, "pt2": _PT2}[kind].format(at=at, sizes=sizes, channels=len(metadata["image_mean"]))


def _inputs(metadata: dict[str, Any]) -> str:
    mean, std = (", ".join(f"{value:g}" for value in metadata[name]) for name in ("image_mean", "image_std"))
    files = f"; image files are read with {metadata['image_files']}" if metadata["image_files"] else ""
    return (
        f"RGB on a scale of 0 to 1, less the mean ({mean}), divided by ({std}); images resized to "
        f"{metadata['image_size']}{files}. `preprocessor_config.json` says all of it."
    )


def _proven(bound: dict[str, Any] | None) -> str:
    if bound is None:
        return "No Lipschitz constant of this model is proven."
    whole = "network, from the pixels to the logits" if bound["of"] == "network" else "head alone, not from the pixels"
    if "image_size" in bound:
        whole += f", for an image of {bound['image_size'][1]}x{bound['image_size'][0]} pixels"
    return (
        f"Lipschitz constant of the {whole}: at most {round_up(bound['value'])} ({bound['norm']}). {bound['note']} It "
        "holds in exact arithmetic for the float32 matrices of this file; rounding inside a runtime is not covered."
    )
