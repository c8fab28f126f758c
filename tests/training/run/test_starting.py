"""What is said of the penalty before training starts."""

import logging

import pytest

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.models.loading import build_model
from lrsegformer.training.arguments import ModelArguments
from lrsegformer.training.run.starting import warn_of_penalty
from lrsegformer.training.training_arguments import LRSegformerTrainingArguments

IDLE, FAST = "has no effect", "--constants_learning_rate 0.002 is that of the weights"


@pytest.mark.parametrize(
    ("strategy", "architecture", "options", "words"),
    [
        ("stable_softplus", "tiny", {}, FAST),
        ("geometric_mean", "tiny", {}, FAST),
        ("stable_softplus", None, {}, None),
        ("stable_softplus", "tiny", {"lambda_lip": 0.0}, None),
        ("stable_softplus", "tiny", {"constants_learning_rate": 0.01}, None),
        ("stable_softplus", "tiny", {"learning_rate": 0.05}, None),
        ("orthogonal", "tiny", {}, None),
        ("orthogonal", "tiny", {"lambda_lip": 0.2}, IDLE),
        (None, "tiny", {}, None),
    ],
)
def test_warnings_of_the_penalty(caplog, tmp_path, strategy, architecture, options, words):
    arguments = LRSegformerTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, **{"learning_rate": 2e-3, **options}
    )
    given = ModelArguments(strategy=strategy or NO_STRATEGY, architecture=architecture)
    with caplog.at_level(logging.WARNING):
        warn_of_penalty(
            build_model("segmentation", "tiny", lipschitz_strategy=strategy, num_labels=3), given, arguments
        )
    said = [record.getMessage() for record in caplog.records if "constants" in record.getMessage()]
    assert len(said) == (words is not None) and all(words in line for line in said)
