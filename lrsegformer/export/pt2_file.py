"""A program of `torch.export` in a file, with its metadata."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from lrsegformer.export.checks import Agreement, compare
from lrsegformer.export.source import Source

FILE = "model.pt2"
# The name under which `torch.export.load(path, extra_files={METADATA: ""})` gives the metadata back.
METADATA = "metadata.json"


def write_pt2(
    source: Source, program: ExportedProgram, metadata: dict[str, Any], folder: Path, fixed: tuple[int, int] | None
) -> list[Agreement]:
    """
    Write `model.pt2`, load it again, and compare.

    Args:
        program (`ExportedProgram`): of [`~lrsegformer.export.graph.trace`].
        metadata (`dict`): goes into the file as JSON.
        fixed (`tuple[int, int]`, *optional*): height and width that the program was traced for.

    Returns:
        The logits of what was loaded beside those of `source`, at three sizes.

    Raises:
        [`~lrsegformer.errors.InputError`]: the logits differ.
    """
    path = str(folder / FILE)
    with warnings.catch_warnings():
        # Of constants that are parts of one storage; whether they come back is what is checked below.
        warnings.filterwarnings("ignore", "No complete tensor found")
        # Into memory first: where a disk is full, torch's own writer of files ends the process without a word.
        written = io.BytesIO()
        torch.export.save(program, written, extra_files={METADATA: json.dumps(metadata)})
    Path(path).write_bytes(written.getbuffer())
    loaded = torch.export.load(path).module()
    with torch.no_grad():
        return compare(source, loaded, "the program of torch.export", fixed)
