"""Scores of a checkpoint on a data set by every protocol, and the folder that they are written to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from lrsegformer.data import DataSplits
from lrsegformer.data.dataset import ImageDataset
from lrsegformer.data.processor import input_size, load_processor, normalisation
from lrsegformer.errors import InputError
from lrsegformer.evaluation.confusion_figure import save_confusion_matrix
from lrsegformer.evaluation.protocols import SCALES
from lrsegformer.evaluation.scores import scores_from_counts, without_nan
from lrsegformer.extras import installed_versions
from lrsegformer.hub.digests import file_digests
from lrsegformer.hub.sections import keep_results
from lrsegformer.hub.tables import evaluation_section
from lrsegformer.inference.evaluation_arguments import EvaluateArguments, EvaluationDataArguments
from lrsegformer.inference.predictor import OPTION, Predictor
from lrsegformer.inference.protocol import Protocol, warn_of_places
from lrsegformer.inference.scoring import SIZES, ProtocolInputs, Scored, score
from lrsegformer.inference.worst import save_worst
from lrsegformer.output_folder import claim
from lrsegformer.robustness.bench.checkpoints import (
    Checkpoint,
    check_classes,
    find_checkpoints,
    load_checkpoint,
    scoring_processor,
    weights_fingerprint,
)
from lrsegformer.robustness.bench.data import open_splits, with_saved_reading
from lrsegformer.robustness.bench.runs import processes
from lrsegformer.visible import csv_text
from lrsegformer.writing import write_whole, writing_to, written_aside

logger = logging.get_logger(__name__)

_PACKAGES = ("lrsegformer", "torch", "transformers", "accelerate", "numpy", "pillow")
RESULTS_FILE, WORST_FILE, CONFUSION_FILE = "evaluation.json", "worst.png", "confusion_matrix_{}"
# What two evaluations have to share for their protocols to stand in one file.
_IDENTITY = ("model", "weights", "input", "dataset", "split", "num_images", "class_names")


def evaluate(
    model: str,
    arguments: EvaluateArguments,
    data_arguments: EvaluationDataArguments,
    run_folder: str | Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """
    Score a checkpoint and write `evaluation.json`, the confusion matrices, and the sheet of the worst images.

    `whole` gives what [`~lrsegformer.LRSegformerTrainer.evaluate`] reports of the same checkpoint and images: under
    `"original"` with `--score_at original`, under `"resized"` with that.

    Args:
        model (`str`): the folder or Hub id of a checkpoint, ours or stock SegFormer.
        arguments ([`EvaluateArguments`]): protocols, and where to.
        data_arguments ([`EvaluationDataArguments`]): the data set.
        run_folder (`str` or `Path`, *optional*): of the run whose own data these are; gets `evaluation.json`, too.

    Returns:
        What `evaluation.json` holds, in every process, and the folder.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything that the user has to mend.
    """
    state = processes()
    (checkpoint,) = find_checkpoints([model], OPTION)
    _check_task(checkpoint, arguments.protocols)
    folder = Path(arguments.output_dir or f"reports/evaluation/{checkpoint.label.replace('/', '-')}")
    claim_evaluation(folder)
    processor = scoring_processor(checkpoint, data_arguments.eval_size)
    data_arguments = with_saved_reading(data_arguments, {checkpoint.label: processor})
    with state.main_process_first():
        splits = open_splits(data_arguments, checkpoint.task, arguments.seed, in_full=False)
    check_classes(checkpoint, splits.label_space.names, splits.dataset_name)
    files = file_digests(checkpoint.name)
    loaded = load_checkpoint(checkpoint)
    weights = weights_fingerprint(loaded, normalisation(processor))
    windows = {"slide": (arguments.window, arguments.stride)}
    protocols = [Protocol.of(name, *windows.get(name, ())) for name in arguments.protocols]
    for protocol in protocols:
        warn_of_places(loaded, protocol)
    predictor = Predictor(loaded.to(state.device), processor)
    dataset = splits.validation.with_transform(ProtocolInputs(processor, protocols))
    described = _described(checkpoint, splits, data_arguments.validation_split, input_size(processor), weights)
    refuse_another_evaluation(folder, described)
    ignore_index = splits.label_space.ignore_index if checkpoint.task == "segmentation" else None
    how = arguments.batch_size, arguments.dataloader_num_workers
    scored = score(predictor, dataset, protocols, ignore_index, *how)
    found = {**described, **_results(scored, protocols, checkpoint.task), "files": files}
    found["versions"] = installed_versions(_PACKAGES)
    report = None
    if state.is_main_process:
        with writing_to(folder):
            report = _write_results(folder, found)
            _write_confusion(folder, scored, described)
            predictor.protocol = protocols[0]
            _write_worst(folder, predictor, dataset, scored, arguments.worst)
        if run_folder is not None:
            _copy_into_run(Path(run_folder), found)
    return broadcast_object_list([report])[0], folder


def _described(
    checkpoint: Checkpoint, splits: DataSplits, split: str, input_in_words: str, weights: str
) -> dict[str, Any]:
    """What is scored, as `evaluation.json` says it."""
    return {
        "model": checkpoint.label,
        "task": checkpoint.task,
        "dataset": splits.dataset_name,
        "split": split,
        "num_images": len(splits.validation),
        "of": len(splits.validation.source),
        "input": input_in_words,
        "class_names": list(splits.label_space.names),
        "weights": weights,
    }


def claim_evaluation(folder: Path) -> None:
    """[`~lrsegformer.output_folder.claim`] for an evaluation, whose folders are known by their `evaluation.json`."""
    earlier = _read_results(folder)
    claim(folder, (RESULTS_FILE, CONFUSION_FILE.format("*"), WORST_FILE), is_evaluation(earlier))


def is_evaluation(found: Mapping[str, Any] | None) -> bool:
    """Whether it is what an `evaluation.json` holds."""
    return found is not None and found.keys() >= {*_IDENTITY, "protocols"}


def refuse_another_evaluation(folder: Path, described: Mapping[str, Any]) -> None:
    """Raises [`~lrsegformer.errors.InputError`] where the folder holds an evaluation of something else."""
    earlier = _read_results(folder)
    if earlier is None:
        return
    different = [key for key in _IDENTITY if earlier.get(key) != described[key]]
    if different:
        raise InputError(
            f"--output_dir {folder} holds the evaluation of another {', '.join(different)}: give another folder"
        )


def _check_task(checkpoint: Checkpoint, protocols: Sequence[str]) -> None:
    if checkpoint.task == "classification" and list(protocols) != ["whole"]:
        other = next(name for name in protocols if name != "whole")
        raise InputError(
            f"--protocols {other} is for segmentation, and {checkpoint.said} classifies images: leave it out"
        )


def _results(scored: Scored, protocols: Sequence[Protocol], task: str) -> dict[str, Any]:
    """The scores by protocol and size, and what the protocols were made with."""
    by_protocol: dict[str, dict[str, Any]] = {}
    for (name, size), counts in scored.counts.items():
        by_protocol.setdefault(name, {})[size] = scores_from_counts(counts, task)
    settings: dict[str, Any] = {"slide": {}, "multi_scale_flip": {"scales": list(SCALES), "flip": True}, "whole": {}}
    for protocol in protocols:
        if protocol.name == "slide":
            settings["slide"] = {"window": protocol.window, "stride": protocol.stride}
    return {"protocols": by_protocol, "settings": {name: settings[name] for name in by_protocol}}


def _read_results(folder: Path) -> dict[str, Any] | None:
    """An earlier `evaluation.json`; `None` where there is none, and an empty one where it cannot be read."""
    try:
        found = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_results(folder: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Write `evaluation.json`, beside the protocols of an earlier evaluation of the same; returns what it holds."""
    earlier = _read_results(folder) or {}
    report = dict(found)
    if all(earlier.get(key) == found[key] for key in _IDENTITY):
        for part in ("protocols", "settings"):
            report[part] = {**earlier.get(part, {}), **found[part]}
    report = without_nan(report)
    write_whole(folder / RESULTS_FILE, json.dumps(report, indent=1) + "\n")
    return report


def _copy_into_run(folder: Path, found: Mapping[str, Any]) -> None:
    """`evaluation.json` beside the run's model, and its section of the card; a line where that cannot be written."""
    try:
        claim(folder, [RESULTS_FILE], is_evaluation(_read_results(folder)), "MODEL")
        with writing_to(folder, "MODEL"):
            report = _write_results(folder, found)
    except InputError as error:
        logger.warning(f"The run gets no copy of {RESULTS_FILE}: {error}.")
        return
    if found["input"] == input_size(load_processor(str(folder))):
        keep_results(folder, "evaluation", report, evaluation_section(report), found["files"])


def _write_confusion(folder: Path, scored: Scored, described: Mapping[str, Any]) -> None:
    """Of each protocol the counts at the images' own size, as CSV and picture."""
    names, unit = described["class_names"], "pixels" if described["task"] == "segmentation" else "images"
    for (name, size), counts in scored.counts.items():
        if size != SIZES[0]:
            continue
        rows = [["true \\ predicted", *names], *([one, *row] for one, row in zip(names, counts.tolist(), strict=True))]
        write_whole(folder / f"{CONFUSION_FILE.format(name)}.csv", csv_text(rows))
        title = f"{described['model']} on {described['dataset']}, {described['split']}: {name}"
        with written_aside(folder / f"{CONFUSION_FILE.format(name)}.png") as path:
            save_confusion_matrix(counts, names, path, title, unit)


def _write_worst(folder: Path, predictor: Predictor, dataset: ImageDataset, scored: Scored, count: int) -> None:
    worst = sorted(scored.images, key=lambda image: -image.badness)[:count]
    if not worst:
        return
    what = "mean IoU" if predictor.task == "segmentation" else "loss"
    title = f"{len(worst)} of {len(scored.images)} images, the worst by {what} ({predictor.protocol.name})"
    with written_aside(folder / WORST_FILE) as path:
        save_worst(predictor, dataset, worst, title, path)
