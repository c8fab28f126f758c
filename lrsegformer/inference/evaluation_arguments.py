"""The options of an evaluation. Light on purpose: `--help` imports this file, so no torch, no transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrsegformer.choices import PROTOCOLS
from lrsegformer.data.arguments import DIGITS, FOLDER_OPTIONS
from lrsegformer.errors import InputError
from lrsegformer.inference.arguments import PredictArguments, as_in, check_protocol
from lrsegformer.ranges import COUNT, FROM_ZERO, check_ranges
from lrsegformer.robustness.bench.arguments import BenchDataArguments
from lrsegformer.text_files import read_mapping
from lrsegformer.training.run.run_config import RUN_CONFIG_FILE

# Options that name a data set: one of them, and the run's own is not looked for.
NAMING_OPTIONS = ("dataset", *FOLDER_OPTIONS)


@dataclass
class EvaluationDataArguments(BenchDataArguments):
    """The data options of the robustness bench, for the whole validation split and both sizes of its masks."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "`digits`, the path of a local folder, or a data set id on the Hub. Default: of a run's model the "
            "data that its run.yaml names, with their options."
        },
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": "Score this many validation images, evenly spaced over the split, as training does; for `digits` "
            "the number of images to make. Default: all."
        },
    )
    # Both sizes are scored.
    score_at: str = field(init=False, default="original")


_RANGES = {"worst": FROM_ZERO, "batch_size": COUNT, "dataloader_num_workers": FROM_ZERO, "seed": FROM_ZERO}


@dataclass
class EvaluateArguments:
    """
    By which protocols a model is scored.

    Raises:
        InputError: a number is out of its range, or two options contradict each other.
    """

    protocols: list[str] = field(
        default_factory=lambda: ["whole"],
        metadata={
            "help": "How a segmentation model sees an image, one or several: whole; by windows whose logits are "
            "averaged (slide); at six sizes from 0.5 to 1.75, each also mirrored, whose probabilities are averaged "
            "(multi_scale_flip).",
            "choices": PROTOCOLS,
        },
    )
    window: int | None = as_in(PredictArguments, "window")
    stride: int | None = as_in(PredictArguments, "stride")
    worst: int = field(default=8, metadata={"help": "Images on the sheet of the worst ones; 0 for none."})
    batch_size: int = as_in(PredictArguments, "batch_size")
    dataloader_num_workers: int = field(
        default=0, metadata={"help": "Processes that read and resize images beside the one that scores."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the built-in digits: that of the run."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the results. Default: reports/evaluation/ and the model's name."}
    )

    def __post_init__(self):
        self.protocols = list(dict.fromkeys(self.protocols))
        if not self.protocols:
            raise InputError("--protocols needs at least one")
        check_protocol(self.protocols, self.window, self.stride)
        check_ranges(self, _RANGES)


def run_folder(model: str) -> Path | None:
    """The folder of the run that a model is of: its own, or of a `checkpoint-600` the one above; `None` elsewhere."""
    folder = Path(model)
    for candidate in (folder, folder.absolute().parent):
        if (candidate / RUN_CONFIG_FILE).is_file():
            return candidate
        if not folder.name.startswith("checkpoint-"):
            return None
    return None


def with_data_of_run(values: dict[str, Any], given: Set[str], model: str) -> tuple[dict[str, Any], bool]:
    """
    The options, with those of the run's own data where no data set was named.

    Args:
        values (`dict`): every option.
        given (`set[str]`): those of the command line or its file; they win.
        model (`str`): a checkpoint.

    Returns:
        The options, and whether the data are exactly those that the run was scored on.

    Raises:
        [`~lrsegformer.errors.InputError`]: the run's `run.yaml` cannot be read, or no data set is named and the model
            is of no run.
    """
    folder = run_folder(model)
    if given & set(NAMING_OPTIONS):
        return values, False
    if folder is None:
        raise InputError(f"MODEL {model} is no folder of a run, whose data set would be known: give --dataset")
    saved = _read_run(folder)
    names = {item.name for item in dataclasses.fields(EvaluationDataArguments) if item.init} | {"seed"}
    # The size of the input is known better by the saved image processor; that of the digits is that of the images.
    known_better = {"eval_size"} if saved.get("dataset") == DIGITS else {"eval_size", "image_size"}
    of_run = {name: saved[name] for name in names - known_better if name in saved and name not in given}
    return {**values, **of_run}, not given & names


def _read_run(folder: Path) -> Mapping[str, Any]:
    path = folder / RUN_CONFIG_FILE
    try:
        return read_mapping(path)
    except ValueError as error:
        raise InputError(f"{path} {error}; give the data set by --dataset") from None
