"""The image processor that is saved with a model, and the statistics that training normalises with."""

from transformers import SegformerImageProcessorPil
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

# A classification image is resized to 256 for a centre crop of 224, and in that proportion at other sizes.
RESIZE_OVER_CROP = 256 / 224


def channel_statistics(name_or_path: str | None, revision: str | None) -> tuple[list[float], list[float]]:
    """Mean and deviation of the channels that the checkpoint was trained with; ImageNet's where it has none."""
    if name_or_path is not None:
        try:
            processor = SegformerImageProcessorPil.from_pretrained(name_or_path, revision=revision or "main")
        except OSError:  # No processor file. A checkpoint that cannot be reached fails when the model is loaded.
            processor = None
        if processor is not None:
            return list(processor.image_mean), list(processor.image_std)
    return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)


def build_processor(
    task: str, eval_size: int, image_mean: list[float], image_std: list[float], reduce_zero_label: bool
) -> SegformerImageProcessorPil:
    """
    The processor of a fine-tuned model.

    For segmentation it brings the short side to `eval_size` and keeps the proportions; for classification it crops a
    centre square. `do_reduce_labels` is set where the data set's masks need it.
    """
    shared = {"image_mean": image_mean, "image_std": image_std}
    if task == "segmentation":
        return SegformerImageProcessorPil(
            size={"shortest_edge": eval_size}, do_reduce_labels=reduce_zero_label, **shared
        )
    return SegformerImageProcessorPil(
        size={"shortest_edge": round(eval_size * RESIZE_OVER_CROP)},
        do_center_crop=True,
        crop_size={"height": eval_size, "width": eval_size},
        do_reduce_labels=False,
        **shared,
    )
