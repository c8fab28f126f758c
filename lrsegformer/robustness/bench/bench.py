"""The bench: every model under every condition, each cell kept as soon as it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import broadcast_object_list
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.registry import ATTACKS
from lrsegformer.data.processor import input_size, normalisation
from lrsegformer.errors import NotFiniteError
from lrsegformer.extras import install_name, installed_versions, require
from lrsegformer.hub.digests import file_digests
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments
from lrsegformer.robustness.bench.cells import CellFile, cell_key
from lrsegformer.robustness.bench.checkpoints import (
    Checkpoint,
    find_checkpoints,
    load_checkpoint,
    proven_bound,
    weights_fingerprint,
)
from lrsegformer.robustness.bench.measuring import measure
from lrsegformer.robustness.bench.planning import prepare
from lrsegformer.robustness.bench.runs import Run, ScoredData, processes
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.report.card import keep_robustness
from lrsegformer.robustness.report.files import FILES, SHEETS, write_report
from lrsegformer.robustness.report.sheets import Sample, save_sheet
from lrsegformer.training.run.run_config import claim_by_mark, write_run_config
from lrsegformer.writing import writing_to, written_aside

logger = logging.get_logger(__name__)

COMMAND = "robustness"
PACKAGES = ("lrsegformer", "torch", "transformers", "accelerate", "numpy", "pillow")


def run_bench(arguments: RobustnessArguments, data_arguments: BenchDataArguments) -> dict[str, Any]:
    """
    Score all models under all conditions and write the report; what an earlier run has finished is taken from it.

    A model that is the folder of a run, scored on the inputs of its own image processor, gets its part of the results
    into its folder and its card ([`~lrsegformer.hub.sections.keep_results`]).

    Processes that `accelerate launch` starts share the images of each cell and give the results of one.

    Args:
        arguments ([`RobustnessArguments`]): models and conditions.
        data_arguments ([`BenchDataArguments`]): the data set that the models were trained for.

    Returns:
        `dict`: what `results.json` holds, in every process.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything that the user has to mend; before the first cell is computed,
            wherever that can be known.
    """
    state = processes()
    claim_by_mark(arguments.output_dir, COMMAND, FILES)
    checkpoints = find_checkpoints(arguments.models)
    arguments.check_task(checkpoints[0].task)
    packages = needed_packages(arguments)
    for package in packages:
        require(package)
    with state.main_process_first():
        prepared = prepare(checkpoints, arguments, data_arguments)
    if state.is_main_process:
        write_run_config(arguments.output_dir, COMMAND, arguments, prepared.data_arguments)
    file = CellFile(arguments.output_dir)
    finished = broadcast_object_list([file.read() if state.is_main_process else None])[0]
    versions = package_versions(packages)
    context = {**prepared.described(), "inputs": {}, "bounds": {}, "seed": arguments.seed, "versions": versions}
    cells: list[dict[str, Any]] = []
    report = None
    for checkpoint in checkpoints:
        tasks = prepared.tasks_of(checkpoint)
        files = file_digests(checkpoint.name)
        model = prepare_model(checkpoint, prepared.processors[checkpoint.label])
        context["bounds"][checkpoint.label] = model.bound
        context["inputs"][checkpoint.label] = {
            "size": model.input_size,
            "subset": tasks[0][1].subset.fingerprint,
            "files": files,
        }
        for number, (condition, scored) in enumerate(tasks, start=1):
            cell, is_new = score_cell(model, condition, scored, arguments, versions, finished, file)
            took = f"{cell['seconds']:.1f} s" if is_new else "finished before"
            logger.info(f"{checkpoint.label}, {condition.label} ({number} of {len(tasks)}): {took}.")
            cells.append(cell)
        # After each model, so that a run that is stopped has a report of those before.
        if state.is_main_process:
            report = write_report(arguments.output_dir, cells, context, prepared.subsets(), arguments.eps)
            if data_arguments.eval_size is None:
                keep_robustness(checkpoint.name, report, checkpoint.label)
    return broadcast_object_list([report])[0]


def needed_packages(arguments: RobustnessArguments) -> list[str]:
    """The optional packages that these options use."""
    packages = [ATTACKS[name].package for name in arguments.attacks]
    packages += ["imagecorruptions"] if arguments.corruptions else []
    return [package for package in dict.fromkeys(packages) if package is not None]


class PreparedModel(NamedTuple):
    """
    A model on its device, what tables call it, the fingerprint of its weights, the size of its input in words, and the
    proven bound of its head.
    """

    label: str
    model: PixelModel
    weights: str
    input_size: str
    bound: dict[str, Any] | None


def prepare_model(checkpoint: Checkpoint, processor: BaseImageProcessor) -> PreparedModel:
    """Load a checkpoint and make it ready for attacks."""
    stock_or_ours = load_checkpoint(checkpoint)
    # Before the model is merged: both are of what the files hold.
    weights = weights_fingerprint(stock_or_ours, normalisation(processor))
    bound = proven_bound(stock_or_ours)
    model = PixelModel(stock_or_ours, processor).to(processes().device).eval()
    return PreparedModel(checkpoint.label, model, weights, input_size(processor), bound)


def score_cell(
    model: PreparedModel,
    condition: Condition,
    data: ScoredData,
    arguments: RobustnessArguments,
    versions: Mapping[str, str],
    finished: dict[str, Any],
    file: CellFile,
    measured_by: Callable[[Run, Condition], tuple[dict[str, Any], list[Sample]]] | None = None,
) -> tuple[dict[str, Any], bool]:
    """
    One model under one condition: taken from `finished`, or measured (as [`measure`] does, unless another way is
    given) and kept there and in `file`.

    Returns the cell, and whether it was measured now.
    """
    options = _numbers_hang_on(arguments, condition, data)
    key = cell_key(model.weights, data.subset.fingerprint, condition, options)
    if key in finished:
        # The same weights may go by another name now, and earlier cells do not say their input.
        return {**finished[key], "model": model.label, "input": model.input_size}, False
    state, start = processes(), time.monotonic()
    run = Run(model.model, data, arguments.seed, arguments.batch_size)
    try:
        results, samples = (measured_by or measure)(run, condition)
    except NotFiniteError as error:
        raise NotFiniteError(f"{model.label}, {condition.label}: {error}") from None
    cell = {
        "key": key,
        "model": model.label,
        "weights": model.weights,
        "input": model.input_size,
        "condition": asdict(condition),
        "num_labels": data.num_labels,
        "class_names": list(data.names),
        "images": len(data.subset),
        "of": data.subset.total,
        "subset": data.subset.fingerprint,
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - start, 3),
        "device": state.device.type,
        "processes": state.num_processes,
        "versions": dict(versions),
        **results,
        "sheet": f"{model.label}-{condition.label}-{key[:6]}.png".replace("/", "-") if samples else None,
    }
    if state.is_main_process:
        if samples:
            title = f"{model.label}, {condition.label}"
            sheet = Path(arguments.output_dir) / SHEETS / cell["sheet"]
            with writing_to(arguments.output_dir), written_aside(sheet) as path:
                save_sheet(samples, title, data.names, path)
        file.append(cell)
    finished[key] = cell
    return cell, True


def _numbers_hang_on(arguments: RobustnessArguments, condition: Condition, data: ScoredData) -> dict[str, Any]:
    """What changes a cell's numbers besides weights, images and condition."""
    options = {"seed": arguments.seed, "names": list(data.names)}
    if condition.kind == "attack" and ATTACKS[condition.name].hangs_on_batch:
        options["batch_size"] = arguments.batch_size
    return options


def package_versions(packages: list[str]) -> dict[str, str]:
    """Of the packages that every number hangs on, and of optional ones by the names of their modules."""
    return installed_versions([*PACKAGES, *(install_name(package) for package in packages)])
