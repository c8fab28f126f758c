"""Predictions of image files and videos into a folder, continued where an earlier command stopped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from transformers.utils import logging

from lrsegformer.data.arguments import parse_bands, parse_range
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import input_definition, normalisation
from lrsegformer.extras import installed_versions, require
from lrsegformer.inference.arguments import PredictArguments
from lrsegformer.inference.files import find_files
from lrsegformer.inference.folder import TABLES, PredictionFolder
from lrsegformer.inference.predictor import OPTION, Predictor
from lrsegformer.inference.stream import ImageStream, Ready, batches, stacked
from lrsegformer.inference.video import frame_count
from lrsegformer.output_folder import check_place
from lrsegformer.robustness.bench.checkpoints import (
    find_checkpoints,
    load_checkpoint,
    scoring_processor,
    weights_fingerprint,
)
from lrsegformer.robustness.bench.runs import processes
from lrsegformer.writing import writing_to

logger = logging.get_logger(__name__)

_PACKAGES = ("lrsegformer", "torch", "transformers", "pillow")


class Predicted(NamedTuple):
    """
    What a command has done.

    Attributes:
        predicted, skipped (`int`): images that were predicted now, and those that were done before.
        unreadable (`list[str]`): a line for each image that could not be read.
        table (`str`): the CSV file.
    """

    predicted: int
    skipped: int
    unreadable: list[str]
    table: str


def predict_files(model: str, words: Sequence[str], arguments: PredictArguments) -> Predicted:
    """
    Predict images and videos and write the folder.

    Processes that `accelerate launch` starts share the images. What cannot be read is listed, and the rest goes on.

    Args:
        model (`str`): the folder or Hub id of a checkpoint, ours or stock SegFormer.
        words (sequence of `str`): files, folders, patterns.
        arguments ([`~lrsegformer.inference.arguments.PredictArguments`]): how, and where to.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything that the user has to mend, before anything is written.
    """
    state = processes()
    check_place(arguments.output_dir)
    files = find_files(words, arguments.output_dir)
    if any(file.is_video for file in files):
        require("av")
    predictor, weights = _load(model, arguments, state.device)
    known = {"model": model, "classes": list(predictor.class_names), "versions": installed_versions(_PACKAGES)}
    folder = PredictionFolder(arguments.output_dir, _identity(predictor, weights, arguments), known)
    for file in files:
        folder.refuse_links(file.name)
        folder.is_done(file, file.name)  # refuses another file of this name
    state.wait_for_everyone()  # nobody looks at the folder any more
    with writing_to(arguments.output_dir):
        if state.is_main_process:
            folder.begin()
    state.wait_for_everyone()
    inputs_of = partial(predictor.protocol.inputs, predictor.processor)
    shared = state.process_index, state.num_processes
    stream = ImageStream(files, inputs_of, predictor.reading, folder.is_done, *shared)
    results = gather_object(_predict_stream(predictor, folder, stream, arguments))
    unreadable = [result for result in results if isinstance(result, str)]
    with writing_to(arguments.output_dir):
        if state.is_main_process:
            folder.finish(unreadable, predictor.class_names, predictor.task)
    state.wait_for_everyone()
    return Predicted(
        results.count(True), results.count(False), unreadable, str(folder.folder / TABLES[predictor.task])
    )


def _load(model: str, arguments: PredictArguments, device: torch.device) -> tuple[Predictor, str]:
    """The model, and the fingerprint of its weights, before it is merged."""
    (checkpoint,) = find_checkpoints([model], OPTION)
    processor = scoring_processor(checkpoint, None)
    loaded = load_checkpoint(checkpoint)
    weights = weights_fingerprint(loaded, normalisation(processor))
    reading = ImageReading(
        parse_range(arguments.image_range),
        parse_bands(arguments.image_bands),
        arguments.image_page,
        arguments.max_image_pixels,
    )
    predictor = Predictor(
        loaded.to(device),
        processor,
        arguments.protocol,
        arguments.window,
        arguments.stride,
        arguments.confidence,
        arguments.certified_radius,
        reading,
    )
    return predictor, weights


def _identity(predictor: Predictor, weights: str, arguments: PredictArguments) -> dict[str, Any]:
    """All that decides what is written; the keys are words for people."""
    reading = predictor.reading
    return {
        "model": weights,
        "image processor": input_definition(predictor.processor),
        "protocol": list(predictor.protocol),
        "reading of files": str(reading),
        "choice of --confidence": arguments.confidence,
        "choice of --certified_radius": arguments.certified_radius,
    }


def _predict_stream(
    predictor: Predictor, folder: PredictionFolder, stream: ImageStream, arguments: PredictArguments
) -> list[bool | str]:
    """Of each image of this process whether it was predicted now (and not before), or why it cannot be read."""
    results: list[bool | str] = []
    counts = [frame_count(file.path) if file.is_video else 1 for file in stream.files]
    total = None if None in counts else -(-sum(counts) // stream.world)
    with logging.tqdm(total=total, unit="image", disable=stream.rank > 0) as bar:
        for several in batches(stream, arguments.batch_size, arguments.dataloader_num_workers):
            results += _predict_batch(predictor, folder, several)
            bar.update(len(several))
    return results


def _predict_batch(predictor: Predictor, folder: PredictionFolder, several: Sequence[Ready]) -> list[bool | str]:
    """Images of one size, or several that are no images."""
    if several[0].image is None:
        for one in several:
            if one.error is not None:
                logger.warning(f"skipped: {one.error}")
        return [False if one.error is None else one.error for one in several]
    predictions = predictor.predict([one.image for one in several], stacked([one.inputs for one in several]))
    with writing_to(folder.folder):
        for one, prediction in zip(several, predictions, strict=True):
            folder.write(one.file, one.name, prediction)
    return [True] * len(several)
