"""What the Trainer asks of a model and its own loss: smoothed targets, and the lead that a certificate takes."""

from torch import nn
from transformers import PreTrainedModel

from lrsegformer.choices import CERTIFIED_RADIUS
from lrsegformer.errors import InputError
from lrsegformer.models.task import task_of
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments
from lrsegformer.zero import refuse_sharded_weights


def settle_model(model: PreTrainedModel, arguments: LRSegformerTrainingArguments) -> None:
    """
    Bring a model into the state that the arguments ask for, before it is trained.

    Raises:
        [`~lrsegformer.errors.InputError`]: where they ask for what the model does not have or cannot be trained under.
    """
    zero_stage = getattr(arguments.deepspeed_plugin, "zero_stage", None)
    refuse_sharded_weights(zero_stage, getattr(model.config, "lipschitz_strategy", None))
    train_for_certificates(model, arguments.certified_radius)
    if task_of(model) == "segmentation":
        smooth_in_the_loss(model, arguments.label_smoothing_factor)


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


def train_for_certificates(model: nn.Module, radius: float | None) -> None:
    """
    Let the training loss of a certified model ask each label to lead by what a certificate of this radius takes.

    Args:
        model: any model; one that is not certified is left as it is.
        radius (`float`, *optional*): in 1/255 of the pixels' range; `None` for the default.

    Raises:
        [`~lrsegformer.errors.InputError`]: a radius for a model that is not certified.
    """
    is_certified = getattr(model, "is_certified", None)
    if is_certified is None or not is_certified():
        if radius:
            raise InputError(
                f"--certified_radius {radius:g} needs --scope certified: no other model has a constant to divide by."
            )
        return
    model.config.certified_training_radius = (CERTIFIED_RADIUS if radius is None else radius) / 255
