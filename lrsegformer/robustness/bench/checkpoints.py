"""The models of a report: what they are, whether they fit each other and the data, and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor

from lrsegformer._compat import from_pretrained_strictly
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import build_processor, load_processor, normalisation
from lrsegformer.errors import InputError, NotFiniteError, reason_of
from lrsegformer.models.configuration_lrsegformer import LRSegformerConfig
from lrsegformer.models.loading import MODEL_CLASSES
from lrsegformer.models.saved.folder import refuse_broken_folder
from lrsegformer.models.saved.trial import refuse_what_cannot_run
from lrsegformer.models.saved.weights import first_not_finite
from lrsegformer.models.task import STOCK_CLASSES, task_of_config

_NOT_WEIGHTS = ("_name_or_path", "transformers_version", "id2label", "label2id", "torch_dtype", "dtype")


@dataclass(frozen=True)
class Checkpoint:
    """
    A model before it is loaded.

    Attributes:
        name (`str`): the folder or Hub id, as given.
        label (`str`): what tables and files call it: the folder's last part (of a `checkpoint-600` the last two), or
            all of `name` where two share that.
        task (`str`): `"segmentation"` or `"classification"`.
        class_names (`tuple[str, ...]`): as its configuration has them, in the order of the logits.
        option (`str`): by which the command line names it, for messages.
    """

    name: str
    label: str
    task: str
    class_names: tuple[str, ...]
    option: str = "--models"

    @property
    def said(self) -> str:
        """The checkpoint as the command line names it."""
        return f"{self.option} {self.name}"

    @property
    def num_labels(self) -> int:
        return len(self.class_names)


def find_checkpoints(names: Sequence[str], option: str = "--models") -> list[Checkpoint]:
    """
    Read the configurations of all models.

    Args:
        names (sequence of `str`): folders or Hub ids.
        option (`str`): by which the command line names them, for messages.

    Raises:
        [`~lrsegformer.errors.InputError`]: one cannot be reached or is no SegFormer with a head, or they differ in
        task or in the number of classes.
    """
    short = {name: _short_name(name) for name in names}
    labels = {name: part if list(short.values()).count(part) == 1 else name for name, part in short.items()}
    checkpoints = []
    for name in names:
        refuse_broken_folder(name, f"{option} {name}")
        config = _reach(name, option, lambda name=name: AutoConfig.from_pretrained(name))
        class_names = tuple(config.id2label[index] for index in sorted(config.id2label))
        checkpoint = Checkpoint(name, labels[name], _task_of(f"{option} {name}", config), class_names, option)
        _refuse_flat_last_stage(checkpoint, config)
        checkpoints.append(checkpoint)
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.task != first.task:
            raise InputError(
                f"{first.said} is for {first.task} and {other.name} for {other.task}: compare models of one task"
            )
        if other.num_labels != first.num_labels:
            raise InputError(
                f"{first.said} has {first.num_labels} classes and {other.name} {other.num_labels}: compare "
                "models of one data set"
            )
    return checkpoints


def check_classes(checkpoint: Checkpoint, class_names: Sequence[str], dataset_name: str) -> None:
    """Raises `InputError` where the data set has other classes than the model, or the same in another order."""
    if checkpoint.num_labels != len(class_names):
        raise InputError(
            f"{checkpoint.said} has {checkpoint.num_labels} classes, and the data set {dataset_name} has "
            f"{len(class_names)}: give the data set that it was trained for, or --class_names"
        )
    pairs = list(zip(checkpoint.class_names, class_names, strict=True))
    if sorted(checkpoint.class_names) == sorted(class_names) and any(model != data for model, data in pairs):
        place, (model, data) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"{checkpoint.said} has the classes of the data set {dataset_name} in another order (class "
            f"{place} is {model!r} to the model and {data!r} in the data): give --class_names in the model's order"
        )


def load_checkpoint(checkpoint: Checkpoint) -> PreTrainedModel:
    """
    The model in eval mode and float32, as its own class, ours or stock.

    Raises:
        [`~lrsegformer.errors.InputError`]: the files cannot be read, lack part of the model or have more than it, hold
            NaN or infinity, or make a model that cannot run.
    """
    model, info = _reach(checkpoint.name, checkpoint.option, lambda: _every_tensor(checkpoint))
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(info["mismatched_keys"])
    if missing:
        raise InputError(
            f"{checkpoint.said} lacks {len(missing)} tensors of the model ({missing[0]}, ...): give a "
            "whole fine-tuned checkpoint, not a backbone alone"
        )
    if unexpected:
        raise InputError(
            f"{checkpoint.said} has {len(unexpected)} tensors that the model of its config.json has not "
            f"({unexpected[0]}, ...): give the folder of a finished run, with the config.json that was saved with them"
        )
    if mismatched:
        name, saved, wanted = mismatched[0]
        raise InputError(
            f"{checkpoint.said} has {len(mismatched)} tensors of other sizes than the model of its config.json "
            f"({name} is {tuple(saved)}, not {tuple(wanted)}): give the folder of a finished run, with its own "
            "config.json"
        )
    if wrong := first_not_finite(model.state_dict().items()):
        raise NotFiniteError(
            f"{checkpoint.said} holds values that are not finite (in {wrong}): its training went astray; give an "
            "earlier checkpoint"
        )
    refuse_what_cannot_run(model, checkpoint.said)
    return model.eval()


def _every_tensor(checkpoint: Checkpoint) -> tuple[PreTrainedModel, dict[str, Any]]:
    # Whatever it says of outputs: the logits are read, by their name.
    outputs = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
    config = AutoConfig.from_pretrained(checkpoint.name, **outputs)
    classes = MODEL_CLASSES if isinstance(config, LRSegformerConfig) else STOCK_CLASSES
    options = {"config": config, "dtype": torch.float32, "ignore_mismatched_sizes": True}
    return from_pretrained_strictly(classes[checkpoint.task], checkpoint.name, **options)


def scoring_processor(checkpoint: Checkpoint, eval_size: int | None) -> BaseImageProcessor:
    """
    What makes a model's inputs: the processor saved with it, or one of ours for `eval_size` with its normalisation and
    its reading of files.

    Raises:
        [`~lrsegformer.errors.InputError`]: the checkpoint has none.
    """
    try:
        processor = load_processor(checkpoint.name)
        # What its file says is checked by using it: on a blank image, before data are opened.
        processor(images=Image.new("RGB", (48, 40)), return_tensors="pt")
    except Exception as error:
        raise InputError(
            f"{checkpoint.said} has no preprocessor_config.json that says how images become inputs: give "
            f"the folder of a finished run ({reason_of(error)})"
        ) from None
    if eval_size is None:
        return processor
    resized = build_processor(checkpoint.task, eval_size, *normalisation(processor))
    ImageReading.of_processor(processor).keep_in(resized)
    return resized


def weights_fingerprint(model: PreTrainedModel, statistics: Sequence[Sequence[float]]) -> str:
    """
    16 hexadecimal digits from every tensor, the architecture and the normalisation of the images.

    Args:
        statistics: mean and standard deviation of the channels.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_WEIGHTS}
    described = [type(model).__name__, config, [list(map(float, values)) for values in statistics]]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def proven_bound(model: PreTrainedModel) -> dict[str, Any] | None:
    """Strategy, and norm, bound and note of the head, of a model of ours; `None` for a stock model."""
    if not isinstance(model.config, LRSegformerConfig):
        return None
    report = model.lipschitz_report()
    return {"strategy": report["strategy"], "scope": report["scope"], **report["head"]}


def _short_name(name: str) -> str:
    if not Path(name).is_dir():
        return name
    path = Path(os.path.abspath(name))  # not resolved: a link is called what the user called it
    return f"{path.parent.name}/{path.name}" if path.name.startswith("checkpoint-") else path.name


def _task_of(said: str, config: PretrainedConfig) -> str:
    task = task_of_config(config)
    if task is not None:
        return task
    raise InputError(
        f"{said} is no SegFormer for segmentation or classification (its configuration names "
        f"{', '.join(config.architectures or ['no architecture'])}): give a fine-tuned SegFormer"
    )


def _refuse_flat_last_stage(checkpoint: Checkpoint, config: PretrainedConfig) -> None:
    """
    transformers 5.23's decode head takes the side of a flat last stage from its channels, and fails or, where these
    happen to be as many, reads another image. Ours sets the field.
    """
    is_stock = not isinstance(config, LRSegformerConfig)
    if checkpoint.task == "segmentation" and is_stock and not config.reshape_last_stage:
        raise InputError(
            f"{checkpoint.said} has a config.json whose reshape_last_stage is false, which the decode head of "
            "transformers cannot read: set it to true there, the weights are the same"
        )


def _reach(name: str, option: str, load: Any) -> Any:
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not Path(name).is_dir():
        raise InputError(f"{option} {name}: no such folder; check the path")
    try:
        return load()
    except InputError:
        raise
    except (
        Exception
    ) as error:  # What a file of a model says goes through three libraries, which check it as they like.
        if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
            raise InputError(
                f"{option} {name} is gated: accept its terms on https://huggingface.co/{name} and run `hf auth login`"
            ) from None
        known = RepositoryNotFoundError, HFValidationError, SafetensorError, OSError, RuntimeError, ValueError
        reason = reason_of(error) if isinstance(error, known) else f"{type(error).__name__} {reason_of(error)}"
        raise InputError(
            f"{option} {name} cannot be loaded ({reason}): give the folder of a run, or a Hub id where there is a "
            "network"
        ) from None
