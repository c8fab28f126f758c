"""A model as ONNX: written by torch's exporter, checked with onnxruntime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from lrsegformer.export.checks import Agreement, compare
from lrsegformer.export.metadata import INPUT, OUTPUT
from lrsegformer.export.source import Source
from lrsegformer.extras import require

FILE = "model.onnx"
# The first that torch's exporter writes without converting, and that runtimes have read since 2022.
OPSET = 18
# Imported where ONNX is asked for, all of them before anything is traced.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(
    source: Source, program: ExportedProgram, metadata: dict[str, Any], folder: Path, fixed: tuple[int, int] | None
) -> list[Agreement]:
    """
    Write `model.onnx` (opset 18; input `pixel_values`, output `logits`, both float32) and compare what onnxruntime
    computes from it.

    Args:
        program (`ExportedProgram`): of [`~lrsegformer.export.graph.trace`].
        metadata (`dict`): goes into the file's `metadata_props`, what is no text as JSON.
        fixed (`tuple[int, int]`, *optional*): height and width that the program was traced for.

    Returns:
        The logits of onnxruntime beside those of `source`, at three sizes.

    Raises:
        [`~lrsegformer.errors.InputError`]: a package is missing; the logits differ.
    """
    onnx = require("onnx")
    path = folder / FILE
    with _quiet():
        torch.onnx.export(
            program,
            f=str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    written = onnx.load(str(path))
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    onnx.helper.set_model_props(written, values)
    onnx.checker.check_model(written)
    onnx.save(written, str(path))
    return compare(source, runtime_logits(path), "the ONNX file", fixed)


def runtime_logits(path: Path, threads: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
    """The file as a function from images to logits, by onnxruntime on the CPU; 0 threads are as many as cores."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def logits_of(pixel_values: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: pixel_values.numpy()})
        return torch.from_numpy(logits)

    return logits_of


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about itself, which nobody who exports a model can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
