"""What an exported file says of itself: classes, how images become its input, and what is proven of it."""

from __future__ import annotations

from typing import Any

from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import input_size, normalisation
from lrsegformer.export.source import Source
from lrsegformer.extras import installed_versions
from lrsegformer.models.loading import LipschitzModel

INPUT, OUTPUT = "pixel_values", "logits"
# Height and width that a certified network's constant is of, where nothing else is said.
USUAL_SIZE = (512, 512)


def metadata_of(source: Source, size: tuple[int, int] = USUAL_SIZE) -> dict[str, Any]:
    """
    Plain values by name, the same in all formats.

    `class_names` (in the order of the logits), `image_mean` and `image_std` (of pixels on a scale of 0 to 1),
    `image_size` (how the processor resizes, in words), `multiple` (of which the sides of an input of any size have to
    be multiples), `processor` (all of its configuration), `image_files` (how files are read, where that is not the
    usual way), `bound` ([`guaranteed_bound`]), and what was exported by which versions.
    """
    mean, std = normalisation(source.processor)
    config = source.model.config
    return {
        "model": source.label,
        "task": source.task,
        "strategy": config.lipschitz_strategy,
        "scope": None if config.lipschitz_strategy is None else config.lipschitz_scope,
        "class_names": list(source.class_names),
        "image_mean": mean,
        "image_std": std,
        "image_size": input_size(source.processor),
        "multiple": source.multiple,
        "image_files": str(ImageReading.of_processor(source.processor)),
        "processor": source.processor.to_dict(),
        "bound": guaranteed_bound(source.model, size),
        "exported_by": installed_versions(("lrsegformer", "torch", "transformers")),
    }


def guaranteed_bound(model: LipschitzModel, size: tuple[int, int] = USUAL_SIZE) -> dict[str, Any] | None:
    """
    What is proven of the matrices that are exported, `None` where nothing is: `of` (`"network"`, from the pixels on,
    or `"head"`, from the stages' features on), `norm`, `value`, a `note` on its reach, and of a network the
    `image_size` (height, width) that it is of, which is `size`. It holds in exact
    arithmetic for the float32 matrices of the file; what rounds inside a runtime is not covered.
    """
    report = model.lipschitz_report(image_size=size)
    of = "network" if model.is_certified() else "head"
    part = report[of]
    if part["bound"] is None or not part["guaranteed"]:
        return None
    at = {"image_size": part["image_size"]} if of == "network" else {}
    return {"of": of, "norm": part["norm"], "value": part["bound"], "note": part["note"], **at}
