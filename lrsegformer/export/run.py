"""One export, from the command line's options to folders in which everything is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from torch.export import ExportedProgram
from transformers.utils import logging

from lrsegformer.errors import InputError
from lrsegformer.export.arguments import ExportArguments
from lrsegformer.export.checks import Agreement, check_shapes
from lrsegformer.export.graph import trace
from lrsegformer.export.metadata import metadata_of
from lrsegformer.export.onnx_file import PACKAGES, write_onnx
from lrsegformer.export.pt2_file import write_pt2
from lrsegformer.export.readme import write_readme
from lrsegformer.export.source import Source, open_source
from lrsegformer.export.stock import write_stock
from lrsegformer.extras import require
from lrsegformer.output_folder import check_place
from lrsegformer.writing import writing_to

logger = logging.get_logger(__name__)

# A folder of this ending is one that was not finished.
UNFINISHED = ".unfinished"


def export(model: str, arguments: ExportArguments) -> list[Path]:
    """
    Write a saved model in the formats that are asked for, each checked against the model before it gets its name.

    Args:
        model (`str`): a folder or Hub id, ours or stock, of either task.
        arguments ([`ExportArguments`]): formats, folder, and a size where that is fixed.

    Returns:
        `list[Path]`: the folder of each format: its file, `preprocessor_config.json`, and a `README.md`.

    Raises:
        [`~lrsegformer.errors.InputError`]: the model cannot be read or not be written so, a package is missing, a
            folder is there already, or an export does not agree with the model. A folder that is returned is whole.
    """
    root, folders = Path(arguments.output_dir), _new_folders(arguments)
    if "onnx" in arguments.format:
        for package in PACKAGES:
            require(package)
    source = open_source(model)
    if "stock" in arguments.format:
        source.model.refuse_export_to_stock()
    program = cache(lambda: trace(source, arguments.fixed_size))
    for name, folder in folders.items():
        logger.info(f"Writing {name} ...")
        with writing_to(root):
            _write(source, name, folder, program, arguments.fixed_size)
    return list(folders.values())


def _new_folders(arguments: ExportArguments) -> dict[str, Path]:
    """The folder of each format, none of which is there yet."""
    root = Path(arguments.output_dir)
    check_place(root)
    folders = {name: root / name for name in arguments.format}
    for folder in folders.values():
        if os.path.lexists(folder):
            raise InputError(f"--output_dir {root} holds an export already ({folder}): give another folder.")
    return folders


def _write(
    source: Source,
    name: str,
    folder: Path,
    program: Callable[[], ExportedProgram],
    fixed: tuple[int, int] | None,
) -> None:
    """One format, in a folder that gets its name when all in it is written and checked."""
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        # The network's constant is that of an image of its fixed size, or of the processor's short side.
        metadata = metadata_of(source, fixed or check_shapes(source)[0][2:])
        agreements: list[Agreement]
        if name == "stock":
            agreements = write_stock(source, unfinished)
        else:
            write = {"onnx": write_onnx, "pt2": write_pt2}[name]
            agreements = write(source, program(), metadata, unfinished, fixed)
        source.processor.save_pretrained(unfinished)
        write_readme(unfinished / "README.md", name, metadata, agreements, fixed)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for agreement in agreements:
        logger.info(f"  checked {agreement.text()}")
