"""What `run.py` makes of its short names."""

import pytest

from lrsegformer.cli.run import translate
from lrsegformer.errors import InputError


def test_short_names_become_the_options_of_the_command_lines():
    task, options = translate(["--task", "classification", "--lr", "5e-5", "--epochs", "3", "--seed", "1"])
    assert task == "classification"
    assert options == [
        *("--strategy", "stable_softplus", "--num_train_epochs", "3", "--learning_rate", "5e-5", "--seed", "1")
    ]
    assert translate(["--task", "segmentation", "--variant", "baseline"])[1] == ["--strategy", "none"]


def test_a_negative_number_is_a_value():
    # Its range is the business of the parser that comes next.
    assert translate(["--task", "segmentation", "--lambda_lip", "-1e-3"])[1][-2:] == ["--lambda_lip", "-1e-3"]


def test_a_strategy_for_the_baseline_is_refused():
    with pytest.raises(InputError, match="--variant baseline has no constraint"):
        translate(["--task", "segmentation", "--variant", "baseline", "--strategy", "orthogonal"])
