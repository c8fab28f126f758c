"""The model that a run starts from, and what can be told of its options before it does."""

import difflib
from typing import Any

import numpy as np
from transformers.utils import logging

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.data import DataSplits
from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import scores_from_counts
from lrsegformer.models.encoder.adapters import add_adapters
from lrsegformer.models.loading import LipschitzModel, build_model, load_model, parse_grid, parse_options
from lrsegformer.training.arguments import ModelArguments
from lrsegformer.training.class_weights import class_weights
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments

logger = logging.get_logger(__name__)


def start_model(task: str, arguments: ModelArguments, splits: DataSplits) -> Any:
    """The model that training starts from, with the data set's classes; where adapters are trained, peft's wrapper."""
    space = splits.label_space
    options = {
        **constraint_options(arguments),
        "id2label": space.id2label,
        "label2id": space.label2id,
        "semantic_loss_ignore_index": space.ignore_index,
        "semantic_loss_class_weights": None
        if arguments.class_weights is None
        else class_weights(arguments.class_weights, splits.train, space, task),
    }
    if arguments.scope == "certified":
        options["certified_image_std"] = list(splits.processor.image_std)
    if arguments.architecture:
        return build_model(task, arguments.architecture, **options)
    model = load_model(task, arguments.model_name_or_path, arguments.model_revision, **options)
    if arguments.lora_r is None:
        return model
    targets = arguments.lora_target_modules
    return add_adapters(model, task, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, targets)


def constraint_options(arguments: ModelArguments) -> dict[str, Any]:
    """
    The constraint as fields of the model's configuration, and under scope certified what the network is made of; the
    images' deviations, which such a network has to know, are for the caller to add.

    Raises:
        [`~lrsegformer.errors.InputError`]: options that are not written as they should be, or of another scope.
    """
    options = {
        "lipschitz_strategy": None if arguments.strategy == NO_STRATEGY else arguments.strategy,
        "lipschitz_scope": arguments.scope,
        "penalty_of": arguments.penalty_of,
        "penalty_reduction": arguments.penalty_reduction,
        "lipschitz_options": parse_options(arguments.lipschitz_options),
    }
    grid, stride = arguments.position_grid, arguments.patch_stride
    if arguments.scope != "certified":
        if grid is not None or stride is not None:
            raise InputError("--position_grid and --patch_stride belong to --scope certified: give that, or neither.")
        return options
    options["certified_attention"] = arguments.certified_attention
    if grid is not None:
        options["certified_position_grid"] = parse_grid(grid)
    if stride is not None:
        options["strides"] = (stride, 2, 2, 2)
    return options


def check_best_metric(arguments: LRSegformerTrainingArguments, task: str) -> None:
    """
    Refuse a `metric_for_best_model` that no evaluation of the task gives, before hours are trained towards it.

    Raises:
        [`~lrsegformer.errors.InputError`]: an unknown score, naming the nearest known one.
    """
    if arguments.metric_for_best_model is None:
        return
    name = arguments.metric_for_best_model.removeprefix("eval_")
    scores = scores_from_counts(np.ones((2, 2), dtype=np.int64), task)
    known = ["loss", "loss_task", *(key for key, value in scores.items() if isinstance(value, float))]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the scores are {', '.join(known)}."
        raise InputError(f"--metric_for_best_model {arguments.metric_for_best_model} is no score of {task}: {hint}")


def has_penalty(model: LipschitzModel) -> bool:
    """Whether there is anything in the model that `lambda_lip` weighs."""
    if model.config.penalty_of != "layers" and model.config.lipschitz_strategy:
        return True
    return any(layer.learns_constant or layer.penalized_jacobian for layer in model.constrained_layers().values())


def warn_of_penalty(
    model: LipschitzModel, model_arguments: ModelArguments, arguments: LRSegformerTrainingArguments
) -> None:
    """Say where a weight was given and nothing is penalised, and where the penalty outruns weights that start anew."""
    weight, default_weight = arguments.lambda_lip, _default_of(arguments, "lambda_lip")
    if weight not in (0, default_weight) and not has_penalty(model):
        logger.warning(
            f"--lambda_lip {weight} has no effect: strategy {model_arguments.strategy} learns no constants."
        )
    rate, of_weights = arguments.constants_learning_rate, arguments.learning_rate
    is_fast = rate == _default_of(arguments, "constants_learning_rate") > of_weights
    learns = any(layer.learns_constant for layer in model.constrained_layers().values())
    if weight > 0 and is_fast and learns and model_arguments.architecture is not None:
        logger.warning(
            f"From scratch, constants at the rate made for fine-tuning, {rate:g}, can fall faster than the weights "
            f"learn: --constants_learning_rate {of_weights:g} is that of the weights."
        )


def _default_of(arguments: LRSegformerTrainingArguments, name: str) -> Any:
    return type(arguments).__dataclass_fields__[name].default
