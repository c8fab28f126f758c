"""Label smoothing of a segmentation model, which is its loss's own business."""

from transformers import PreTrainedModel

from lrsegformer.errors import InputError


def smooth_in_the_loss(model: PreTrainedModel, share: float) -> None:
    """
    Let the loss of a segmentation model smooth its targets by `share`; 0 leaves the model as it is.

    transformers' own smoothing works along the wrong axis of a map, and takes the ignore label for a class.

    Raises:
        [`~lrsegformer.errors.InputError`]: a stock model, whose loss has no such option.
    """
    if not share:
        return
    if not hasattr(model.config, "semantic_loss_label_smoothing"):
        raise InputError(
            "--label_smoothing_factor with a stock SegFormer for segmentation would smooth over the wrong axis: "
            "leave it at 0, or train an LRSegformerForSemanticSegmentation (without a strategy it is the stock "
            "model)."
        )
    model.config.semantic_loss_label_smoothing = share
