"""What a report will hold before anything is computed: models that can be read, images, and conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers.image_processing_utils import BaseImageProcessor

from lrsegformer.data import DataSplits
from lrsegformer.data.processor import input_definition
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import BenchDataArguments, RobustnessArguments, attack_conditions
from lrsegformer.robustness.bench.checkpoints import Checkpoint, check_classes, load_checkpoint, scoring_processor
from lrsegformer.robustness.bench.data import (
    corrupted,
    open_splits,
    prepared_by,
    shifted_sets,
    training_subset,
    validation_subset,
    with_saved_reading,
)
from lrsegformer.robustness.bench.runs import ScoredData
from lrsegformer.robustness.conditions import Condition

Task = tuple[Condition, ScoredData]


class Prepared(NamedTuple):
    """
    What all models of a report are scored on.

    Attributes:
        task (`str`), dataset_name (`str`): of the models and of the data.
        data_arguments ([`BenchDataArguments`]): with how the models' processors say that files are read.
        processors (`dict`): by the models' labels.
        plans (`dict`): conditions and images for each way to prepare images ([`input_definition`]); models whose
            processors prepare images alike share them.
    """

    task: str
    dataset_name: str
    data_arguments: BenchDataArguments
    processors: dict[str, BaseImageProcessor]
    plans: dict[str, list[Task]]

    def tasks_of(self, checkpoint: Checkpoint) -> list[Task]:
        """The conditions and images of a model, the clean ones first."""
        return self.plans[input_definition(self.processors[checkpoint.label])]

    def subsets(self) -> dict[str, list[str]]:
        """The names of the images of every subset, by its fingerprint; corrupted ones are those of the clean."""
        scored = [data for tasks in self.plans.values() for _, data in tasks if data.clean is None]
        return {data.subset.fingerprint: data.subset.names for data in scored}

    def described(self) -> dict[str, Any]:
        """What a report says of them."""
        clean = next(iter(self.plans.values()))[0][1]
        return {
            "task": self.task,
            "dataset": self.dataset_name,
            "images": len(clean.subset),
            "of": clean.subset.total,
            "class_names": list(clean.names),
            "score_at": self.data_arguments.score_at,
        }


def prepare(
    checkpoints: Sequence[Checkpoint], arguments: RobustnessArguments, data_arguments: BenchDataArguments
) -> Prepared:
    """
    Open the data, read every model once, and plan every cell.

    Raises:
        [`~lrsegformer.errors.InputError`]: a model cannot be read or does not fit the data, the data cannot be opened,
            or the training images that an option needs are missing.
    """
    if arguments.reliability and data_arguments.lacks_training_folders:
        raise InputError(
            "--reliability compares with training images: give --train_images and --train_masks, or leave it out"
        )
    task = checkpoints[0].task
    processors = {one.label: scoring_processor(one, data_arguments.eval_size) for one in checkpoints}
    data_arguments = with_saved_reading(data_arguments, processors)
    splits = open_splits(data_arguments, task, arguments.seed)
    for checkpoint in checkpoints:
        check_classes(checkpoint, splits.label_space.names, splits.dataset_name)
        # Read once before anything is computed: a broken file of the last model must not be found after hours.
        load_checkpoint(checkpoint)
    plans: dict[str, list[Task]] = {}
    for processor in processors.values():
        if input_definition(processor) not in plans:
            images = prepared_by(processor, splits, data_arguments.score_at)
            plans[input_definition(processor)] = plan(arguments, data_arguments, images, task)
    return Prepared(task, splits.dataset_name, data_arguments, processors, plans)


def plan(
    arguments: RobustnessArguments,
    data_arguments: BenchDataArguments,
    splits: DataSplits,
    task: str,
) -> list[Task]:
    """Every condition with its images, in the order of the tables; the first is the clean validation subset."""
    data = validation_subset(splits, task, data_arguments.max_eval_samples, arguments.seed)
    tasks: list[Task] = [(Condition("clean"), data)]
    attacks = attack_conditions(arguments)
    if attacks:
        tasks.append((Condition("gradients"), data))
    tasks += [(condition, data) for condition in attacks]
    for name in arguments.corruptions:
        for severity in arguments.severities:
            condition = Condition("corruption", name, severity=severity)
            tasks.append((condition, corrupted(data, condition, arguments.seed)))
    tasks += shifted_sets(arguments, data_arguments, splits, task)
    if arguments.reliability:
        train = training_subset(splits, task, data_arguments.max_eval_samples, arguments.seed)
        tasks += [(Condition("train"), train), (Condition("reliability"), data)]
    return tasks
