"""A finished run: what it was told, how it scored, what it logged."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.reporting.reading.sources import STARTED_FILE, Source, number, read_json
from lrsegformer.text_files import read_mapping

LOG_FILE = "trainer_state.json"
WEIGHTS_FILE = "model.safetensors"
# TrainingArguments' own; `run.yaml` leaves defaults out.
DEFAULT_SEED = 42
# What does not change what is trained: where things go, what is printed, and how the same work is split up.
INCIDENTAL = (
    *("output_dir", "run_name", "seed", "data_seed", "report_to", "push_to_hub", "hub_", "logging_", "save_"),
    *("disable_tqdm", "log_level", "dataloader_", "per_device_", "gradient_accumulation_steps", "use_cpu"),
    *("eval_strategy", "eval_steps", "eval_on_start", "batch_eval_metrics", "ddp_", "load_best_model_at_end"),
    *("activation_checkpointing", "gradient_checkpointing", "skip_memory_metrics", "max_eval_samples"),
)
_BEFORE_THE_DATA_SET = {"segmentation": "merve/scene_parse_150", "classification": "ILSVRC/imagenet-1k"}
# Buffers of the stock model, which are no parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Run:
    """
    A finished run.

    Attributes:
        source (`Source`): its `all_results.json`.
        task (`str`), dataset (`str`): what it was trained for, and on.
        options (`dict`): of its `run.yaml`.
        scores (`dict`): name -> value, from 0 to 1, of the saved model.
        results (`dict`): all that `all_results.json` holds.
        log (`list[dict]`): the log history of the Trainer; empty where there is none.
        weights (`int`, *optional*): numbers in the saved model that are no buffers.
        weights_bytes (`int`, *optional*): size of its file.
    """

    source: Source
    task: str
    dataset: str
    options: Mapping[str, Any]
    scores: Mapping[str, float]
    results: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    weights: int | None
    weights_bytes: int | None

    @property
    def name(self) -> str:
        return self.source.folder.resolve().name

    @property
    def seed(self) -> Any:
        return self.options.get("seed", DEFAULT_SEED)

    @property
    def strategy(self) -> str:
        named = self.lipschitz.get("strategy") or self.options.get("strategy")
        return NO_STRATEGY if named is None else str(named)

    @property
    def scope(self) -> str | None:
        scope = self.lipschitz.get("scope") or self.options.get("scope")
        return None if self.strategy == NO_STRATEGY or scope is None else str(scope)

    @property
    def lipschitz(self) -> Mapping[str, Any]:
        return self.results.get("lipschitz") or {}

    @property
    def identity(self) -> str:
        """What runs that differ in nothing but the seed have in common."""
        told = {name: value for name, value in self.options.items() if not name.startswith(INCIDENTAL)}
        told |= {"strategy": self.strategy, "scope": self.scope, "task": self.task, "dataset": self.dataset}
        return json.dumps(told, sort_keys=True, default=str)


def read_run(source: Source, results: Any) -> tuple[Run, list[str]]:
    """
    A run from its `all_results.json` and the files beside it; and a line for each of those that is missing or broken.
    """
    scores = {
        name.removeprefix("eval_"): value
        for name, value in ((name, number(value)) for name, value in results.items() if name.startswith("eval_"))
        if value is not None
    }
    if not scores:
        raise ValueError("holds no scores (no key begins with eval_)")
    missing: list[str] = []
    options = _options(source, missing)
    task = results.get("task") or ("segmentation" if "mean_iou" in scores else "classification")
    run = Run(
        source=source,
        task=task,
        dataset=str(results.get("dataset") or _dataset(options, task)),
        options=options,
        scores=scores,
        results=results,
        log=_log(source, missing),
        weights=results.get("parameters") or _count_weights(source.folder / WEIGHTS_FILE),
        weights_bytes=_size(source.folder / WEIGHTS_FILE),
    )
    return run, missing


def _options(source: Source, missing: list[str]) -> Mapping[str, Any]:
    path = source.folder / STARTED_FILE
    try:
        options = read_mapping(path)
    except ValueError:
        missing.append(f"{source.shown}: no readable {STARTED_FILE} beside it, so its options and seed are unknown")
        # Apart from every other run: nothing says that it differs from one in the seed alone.
        return {"folder": source.folder.resolve().name, "seed": None}
    return {str(name): value for name, value in options.items()}


def _log(source: Source, missing: list[str]) -> Sequence[Mapping[str, Any]]:
    try:
        log = read_json(source.folder / LOG_FILE)["log_history"]
        return [record for record in log if number(record["step"]) is not None]
    except (ValueError, KeyError, TypeError):
        missing.append(f"{source.shown}: no readable {LOG_FILE} beside it, so there are no curves and times of it")
        return []


def _dataset(options: Mapping[str, Any], task: str) -> str:
    """What a run called its data set: a folder's name, the id on the Hub, or the folder around the images."""
    if options.get("dataset"):
        dataset = str(options["dataset"])
        is_folder = dataset.startswith(("/", ".", "~")) or dataset.count("/") > 1 or Path(dataset).is_dir()
        return Path(dataset).name if is_folder else dataset
    if options.get("train_images"):
        return Path(str(options["train_images"])).parent.name or str(options["train_images"])
    return "unknown data" if "folder" in options else _BEFORE_THE_DATA_SET[task]


def _count_weights(path: Path) -> int | None:
    """The numbers in a file of weights by its header, which is JSON behind eight bytes with its length."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    except (OSError, ValueError, struct.error, MemoryError, OverflowError):
        return None
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__" and not name.endswith(_BUFFERS):
            count = 1
            for side in tensor["shape"]:
                count *= side
            total += count
    return total


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
