"""`run.py`: short names, and what its variants make of the strategy."""

import pytest
import yaml

from lrsegformer.cli.finetune import parse_arguments
from lrsegformer.cli.run import DEFAULT_STRATEGY, split_options
from lrsegformer.errors import InputError


def parse(*argv: str):
    task, options = split_options([*argv, "--use_cpu"])
    return task, *parse_arguments(task, options, strategy=DEFAULT_STRATEGY)


def test_short_names_are_the_options_of_the_command_lines():
    task, model, _, training = parse(
        *"--task classification --lr 5e-5 --epochs 3 --batch_size=32 --seed 1 --lambda_lip 0.5".split()
    )
    assert (task, model.strategy) == ("classification", "stable_softplus")
    assert (training.learning_rate, training.num_train_epochs, training.max_steps) == (5e-5, 3, -1)
    assert (training.total_batch_size, training.seed, training.lambda_lip) == (32, 1, 0.5)


def test_each_short_name_wins_over_what_a_file_says_under_any_name(tmp_path):
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({"max_steps": 9, "lr": "1e-3", "total_batch_size": 16, "per_device_train_batch_size": 16})
    )
    file = ["--task", "segmentation", "--config", str(tmp_path / "run.yaml")]
    assert parse(*file)[3].learning_rate == 1e-3
    training = parse(*file, "--epochs", "2", "--lr", "1e-4", "--batch_size", "32")[3]
    assert (training.max_steps, training.num_train_epochs, training.learning_rate) == (-1, 2, 1e-4)
    assert (training.total_batch_size, training.per_device_train_batch_size) == (32, 16)
    assert training.gradient_accumulation_steps == 2


@pytest.mark.parametrize(
    ("in_file", "options", "expected"),
    [
        (None, [], "stable_softplus"),
        (None, ["--strategy", "orthogonal"], "orthogonal"),
        (None, ["--variant", "baseline"], "none"),
        ("orthogonal", [], "orthogonal"),
        ("none", [], "none"),
        ("orthogonal", ["--strategy", "spectral_norm"], "spectral_norm"),
        ("orthogonal", ["--variant", "baseline"], "none"),
    ],
)
def test_the_line_wins_over_the_file_and_the_file_over_the_default(tmp_path, in_file, options, expected):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({} if in_file is None else {"strategy": in_file}))
    model = parse("--task", "segmentation", "--config", str(tmp_path / "run.yaml"), *options)[1]
    assert model.strategy == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "baseline", "--strategy", "orthogonal"], ["--variant baseline", "--strategy orthogonal"]),
        (["--strategy=none"], ["--strategy none", "--variant baseline"]),
        (["--strategy"], ["--strategy needs a value"]),
        (["--variant", "stock"], ["--variant", "'stock'", "baseline", "lipschitz"]),
        (["--task", "detection"], ["--task", "'detection'", "segmentation", "classification"]),
        (["--lr", "fast"], ["--learning_rate", "--lr", "'fast'"]),
        (["--epoch", "3"], ["--epoch 3"]),
        (["--lambda_lip", "-1e-3"], ["--lambda_lip", "-0.001"]),
    ],
)
def test_wrong_options_are_one_line(options, words):
    with pytest.raises(InputError) as error:
        parse("--task", "segmentation", *options)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


def test_the_task_has_to_be_given():
    with pytest.raises(InputError, match="required: --task"):
        parse("--epochs", "3")
