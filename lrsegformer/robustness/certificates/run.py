"""Certify models, attack them at the same radii, and write the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.utils import logging

from lrsegformer.certification.smoothing import Smoothing
from lrsegformer.evaluation.scores import without_nan
from lrsegformer.extras import require
from lrsegformer.hub.digests import file_digests
from lrsegformer.robustness.bench.arguments import BenchDataArguments, attack_conditions
from lrsegformer.robustness.bench.bench import (
    PreparedModel,
    needed_packages,
    package_versions,
    prepare_model,
    score_cell,
)
from lrsegformer.robustness.bench.cells import CellFile
from lrsegformer.robustness.bench.checkpoints import find_checkpoints
from lrsegformer.robustness.bench.planning import Prepared, prepare
from lrsegformer.robustness.bench.runs import Run, ScoredData, processes
from lrsegformer.robustness.certificates.arguments import CertificateArguments
from lrsegformer.robustness.certificates.card import keep_certificates
from lrsegformer.robustness.certificates.files import (
    FILES,
    REPORT_KIND,
    ModelResult,
    save_pictures,
    write_certificates,
)
from lrsegformer.robustness.certificates.measuring import certify, smooth
from lrsegformer.robustness.certificates.proven import NETWORK, proof_of
from lrsegformer.robustness.certificates.resizing import resizings_of
from lrsegformer.robustness.certificates.rows import proven_rows, smoothed_rows, uncertified_rows
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.report.rows import result_rows
from lrsegformer.training.run.run_config import claim_by_mark, write_run_config

logger = logging.get_logger(__name__)

COMMAND = "certify"


def run_certificates(arguments: CertificateArguments, data_arguments: BenchDataArguments) -> dict[str, Any]:
    """
    Certify all models and write the report.

    Processes that `accelerate launch` starts share the images and give the results of one. Attacks and smoothing that
    an earlier run into the same folder has finished are taken from it. A model that is the folder of a run, scored on
    the inputs of its own image processor, gets its part of the results into its folder and its card
    ([`~lrsegformer.hub.sections.keep_results`]).

    Args:
        arguments ([`CertificateArguments`]): models, radii, norms, attacks and smoothing.
        data_arguments ([`~lrsegformer.robustness.bench.arguments.BenchDataArguments`]): the data set that the models
            were trained for.

    Returns:
        `dict`: what `results.json` holds, in every process.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything that the user has to mend.
        [`~lrsegformer.errors.BrokenCertificateError`]: a certified score lies above an attacked one, or that above the
            clean one; no table is written.
    """
    state = processes()
    claim_by_mark(arguments.output_dir, COMMAND, FILES)
    smoothing = Smoothing(**arguments.smoothing_options()) if arguments.smoothing else None
    checkpoints = find_checkpoints(arguments.models)
    arguments.check_task(checkpoints[0].task)
    packages = needed_packages(arguments.bench_arguments(arguments.norms[0]))
    for package in packages:
        require(package)
    with state.main_process_first():
        prepared = prepare(checkpoints, arguments.bench_arguments(), data_arguments)
    if state.is_main_process:
        write_run_config(arguments.output_dir, COMMAND, arguments, prepared.data_arguments)
    file = CellFile(arguments.output_dir)
    finished = broadcast_object_list([file.read() if state.is_main_process else None])[0]
    versions = package_versions(packages)
    results: list[ModelResult] = []
    for checkpoint in checkpoints:
        processor = prepared.processors[checkpoint.label]
        files = file_digests(checkpoint.name)
        model = prepare_model(checkpoint, processor)
        ((_, data),) = prepared.tasks_of(checkpoint)

        def cell_of(condition: Condition, options: Any, measured_by: Any = None, model=model, data=data) -> dict:
            return score_cell(model, condition, data, options, versions, finished, file, measured_by)[0]

        resizings = resizings_of(data, processor, data_arguments.score_at)
        result = _certify_model(model, data, arguments, smoothing, cell_of)
        results.append(result._replace(resizings=resizings, files=files))
    report = None
    if state.is_main_process:
        report = write_certificates(results, _context(prepared, arguments, smoothing, versions), arguments, prepared)
        for checkpoint in checkpoints if data_arguments.eval_size is None else ():
            keep_certificates(checkpoint.name, report, checkpoint.label)
    return broadcast_object_list([report])[0]


def _conditions(arguments: CertificateArguments) -> list[tuple[Condition, Any]]:
    """Clean images, then every attack at every radius of every norm, each with the bench's options."""
    conditions = [(Condition("clean"), arguments.bench_arguments())]
    for norm in arguments.norms if arguments.attacks else ():
        options = arguments.bench_arguments(norm)
        conditions += [(condition, options) for condition in attack_conditions(options)]
    return conditions


def _certify_model(
    model: PreparedModel,
    data: ScoredData,
    arguments: CertificateArguments,
    smoothing: Smoothing | None,
    cell_of: Callable[..., dict[str, Any]],
) -> ModelResult:
    run = Run(model.model, data, arguments.seed, arguments.batch_size)
    cells = [cell_of(condition, options) for condition, options in _conditions(arguments)]
    proof, note = proof_of(model.model)
    attacked = {norm: result_rows(cells, run.model.task, arguments.bench_radii_of(norm)) for norm in arguments.norms}
    rows, found, seconds = [], {}, {}
    if proof is not None:
        radii = {norm: arguments.radii_of(norm) for norm in proof.norms(arguments.norms)}
        start = time.monotonic()
        found = certify(run, proof, radii, arguments.pictures)
        seconds["certificates"] = time.monotonic() - start
        for norm in found:
            rows += proven_rows(model.label, proof.reach, found[norm], norm, attacked.get(norm, []))
    if proof is None or proof.reach != NETWORK:
        clean = next(row for row in attacked[arguments.norms[0]] if row["kind"] == "clean")
        for norm in arguments.norms:
            rows += uncertified_rows(model.label, clean, norm, arguments.radii_of(norm), attacked[norm])
    if smoothing is not None:
        found["smoothing"], seconds["smoothing"] = _smooth(model.label, smoothing, arguments, cell_of)
        rows += smoothed_rows(model.label, found["smoothing"], smoothing.alpha)
    logger.info(f"{model.label}: {note}")
    return ModelResult(model, note, None if proof is None else proof.reach, rows, found, seconds)


def _smooth(
    label: str, smoothing: Smoothing, arguments: CertificateArguments, cell_of: Callable[..., dict[str, Any]]
) -> tuple[dict[str, Any], float]:
    """What smoothing found and its seconds. Its pictures are drawn before it is kept, so that no crash loses them."""
    radii = arguments.radii_of("l2")

    def measured_by(run: Run, condition: Condition) -> tuple[dict[str, Any], list]:
        found = smooth(run, smoothing, radii, arguments.pictures)
        pictures = found.pop("pictures")
        if processes().is_main_process:
            save_pictures(arguments.output_dir, label, "smoothing", pictures, radii, run.data.names)
        return {"measured": without_nan(found), "warnings": []}, []

    # All that the numbers hang on besides seed and images, which the bench adds.
    name = json.dumps({**vars(smoothing), "radii": radii}, sort_keys=True)
    cell = cell_of(Condition("smoothing", name, norm="l2"), arguments.bench_arguments(), measured_by)
    return cell["measured"], cell["seconds"]


def _context(
    prepared: Prepared, arguments: CertificateArguments, smoothing: Smoothing | None, versions: dict[str, str]
) -> dict[str, Any]:
    described = prepared.described()
    return {
        "report": REPORT_KIND,
        **described,
        "seed": arguments.seed,
        "versions": versions,
        "smoothing": None if smoothing is None else {**vars(smoothing), "radius": smoothing.radius},
    }
