"""The weight of each class in the loss: given, or computed from the training labels."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from lrsegformer.data import LabelSpace
from lrsegformer.errors import InputError
from lrsegformer.text_files import is_file, parse_json, read_text

logger = logging.get_logger(__name__)

BALANCED = "balanced"


def class_weights(option: str, dataset: Any, space: LabelSpace, task: str) -> list[float]:
    """
    The weights that `--class_weights` asks for, in the order of the classes, and a line about them in the log.

    Args:
        option (`str`): `"balanced"`; numbers with commas between them; or a JSON list, a JSON mapping from class names
            to weights, or a file of such.
        dataset ([`~lrsegformer.data.dataset.ImageDataset`]): the training data, whose labels `"balanced"` counts.
        space ([`~lrsegformer.data.LabelSpace`]): the classes.
        task (`str`): `"segmentation"` (pixels are counted) or `"classification"` (images).

    Raises:
        [`~lrsegformer.errors.InputError`]: no numbers, not one a class, negative or not finite ones, or all 0.
    """
    if option == BALANCED:
        weights = balanced_weights(count_labels(dataset, space, task))
    else:
        weights = _in_order(_read(option), space.names)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise InputError(f"--class_weights {option}: give finite weights of at least 0, and one above it.")
    shown = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(space.names, weights, strict=True))
    logger.info(f"Class weights: {shown}.")
    return weights


def balanced_weights(counts: np.ndarray) -> list[float]:
    """
    `n / (K * n_c)`, where `n` labels of `K` classes occur, and `n_c` of class `c`; 1 for a class that does not occur.

    Each class that occurs has the same total weight, and a label's mean weight is 1 (King and Zeng 2001, Logistic
    regression in rare events data; `class_weight="balanced"` of scikit-learn).
    """
    occur = counts > 0
    share = counts.sum() / max(occur.sum(), 1)
    return np.where(occur, share / np.maximum(counts, 1), 1.0).tolist()


def count_labels(dataset: Any, space: LabelSpace, task: str) -> np.ndarray:
    """How many valid pixels, or images, of each class a data set holds: reads every mask once, and no image."""
    source = dataset.source
    if task == "classification":
        return np.bincount(source.class_indices()[dataset.indices], minlength=space.num_labels)
    counts = np.zeros(space.num_labels, dtype=np.int64)
    for index in map(int, logging.tqdm(dataset.indices, desc="counting the labels")):
        encoded = space.encode_mask(source.mask(index), source.mask_name(index))
        counts += np.bincount(encoded[encoded != space.ignore_index].ravel(), minlength=space.num_labels)
    return counts


def _read(option: str) -> Any:
    text = option
    try:
        if not option.lstrip().startswith(("[", "{")) and is_file(option):
            text = read_text(Path(option).expanduser())
        if text.lstrip().startswith(("[", "{")):
            return parse_json(text)
        return [float(word) for word in text.replace("\n", ",").split(",") if word.strip()]
    except ValueError:
        raise InputError(
            f"--class_weights {option} is neither '{BALANCED}', nor numbers with commas between them, nor a JSON list "
            "or mapping from class names, nor a file of such."
        ) from None


def _in_order(given: Any, names: Sequence[str]) -> list[float]:
    if isinstance(given, dict):
        unknown, missing = sorted(set(given) - set(names)), [name for name in names if name not in given]
        if unknown or missing:
            raise InputError(
                f"--class_weights: unknown classes {unknown or 'none'}, classes without a weight {missing or 'none'}: "
                "give one weight for each class of the data set."
            )
        given = [given[name] for name in names]
    if len(given) != len(names):
        raise InputError(f"--class_weights has {len(given)} weights for {len(names)} classes: give one a class.")
    if not all(isinstance(weight, int | float) and not isinstance(weight, bool) for weight in given):
        raise InputError("--class_weights holds something that is no number: give one number a class.")
    return [float(weight) for weight in given]
