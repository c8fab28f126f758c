"""A tiny model, tiny data, and trainers that take milliseconds a step."""

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from transformers import set_seed
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lrsegformer import LRSegformerTrainer, LRSegformerTrainingArguments
from lrsegformer.data import DataArguments, DataSplits, load_data
from lrsegformer.data.dataset import collate
from lrsegformer.models.loading import build_model


@pytest.fixture(scope="session")
def digits() -> Callable[[str], DataSplits]:
    """The built-in data of a task: 12 training and 3 validation images of 32 x 32."""

    @lru_cache
    def load(task: str) -> DataSplits:
        arguments = DataArguments(dataset="digits", image_size=32, max_train_samples=12, max_eval_samples=3)
        return load_data(arguments, task, 0, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

    return load


@pytest.fixture
def make_model(digits) -> Callable[..., torch.nn.Module]:
    """A tiny model from scratch; the seed decides its weights."""

    def make(task: str = "segmentation", strategy: str | None = "stable_softplus", seed: int = 0, **options):
        space = digits(task).label_space
        set_seed(seed)
        return build_model(
            task,
            "tiny",
            lipschitz_strategy=strategy,
            id2label=space.id2label,
            label2id=space.label2id,
            semantic_loss_ignore_index=space.ignore_index,
            **options,
        )

    return make


@pytest.fixture
def make_arguments(tmp_path) -> Callable[..., LRSegformerTrainingArguments]:
    """Arguments of two steps of four images that log each step and save nothing."""

    def make(**options) -> LRSegformerTrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "max_steps": 2,
            "total_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "eval_strategy": "no",
            "dataloader_num_workers": 0,
            "disable_tqdm": True,
        }
        return LRSegformerTrainingArguments(**{**defaults, **options})

    return make


@pytest.fixture
def make_trainer(digits, make_model, make_arguments) -> Callable[..., LRSegformerTrainer]:
    """A trainer of a tiny model on the built-in data."""

    def make(
        task: str = "segmentation",
        strategy: str | None = "stable_softplus",
        model: torch.nn.Module | None = None,
        trainer_class: type[LRSegformerTrainer] = LRSegformerTrainer,
        train_dataset=None,
        eval_dataset=None,
        callbacks=None,
        **options,
    ) -> LRSegformerTrainer:
        splits = digits(task)
        return trainer_class(
            model=make_model(task, strategy) if model is None else model,
            args=make_arguments(**options),
            train_dataset=splits.train if train_dataset is None else train_dataset,
            eval_dataset=splits.validation if eval_dataset is None else eval_dataset,
            data_collator=collate,
            callbacks=callbacks,
        )

    return make
