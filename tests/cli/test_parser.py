"""Command line and configuration file."""

import json
from dataclasses import dataclass, field

import pytest
import yaml

from lrsegformer.cli.finetune import parse_arguments
from lrsegformer.cli.parser import OneLineParser, find_option
from lrsegformer.data.classes.names import read_class_names
from lrsegformer.errors import InputError
from lrsegformer.training.run.run_config import arguments_to_config, write_run_config


def parse(*argv: str, task: str = "segmentation"):
    return parse_arguments(task, [*argv, "--use_cpu"])


@pytest.fixture
def config_file(tmp_path):
    def write(content, name: str = "options.yaml") -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return write


OPTIONS = {
    "strategy": "stable_softplus",
    "lambda_lip": 0.25,
    "learning_rate": 1e-4,
    "max_steps": 12,
    "dataset": "digits",
    "activation_checkpointing": False,
    "reduce_zero_label": True,
    "lipschitz_options": {"norm": "l1"},
    "max_eval_samples": None,
    "report_to": ["tensorboard"],
}


def check_options(arguments):
    model, data, training = arguments
    assert model.strategy == "stable_softplus" and json.loads(model.lipschitz_options) == {"norm": "l1"}
    assert data.dataset == "digits" and data.reduce_zero_label is True and data.max_eval_samples is None
    assert (training.lambda_lip, training.learning_rate, training.max_steps) == (0.25, 1e-4, 12)
    assert training.report_to == ["tensorboard"]


def test_yaml(config_file):
    check_options(parse("--config", config_file(OPTIONS)))
    check_options(parse(f"--config={config_file(OPTIONS)}"))


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json(config_file, indent):
    check_options(parse("--config", config_file(json.dumps(OPTIONS, indent=indent), "options.json")))


def test_lists_are_values_of_options_that_take_one_word(config_file):
    path = config_file("class_names: [road, car]\nmask_values: [0, 255]\nlabel_names: [labels, weights]\n")
    _, data, training = parse("--config", path)
    assert read_class_names(data.class_names).names == ("road", "car") and json.loads(data.mask_values) == [0, 255]
    assert training.label_names == ["labels", "weights"]
    _, data, _ = parse("--config", config_file("class_names: [lesion]\n"))
    assert read_class_names(data.class_names).names == ("lesion",)


def test_exponents_without_a_point_are_numbers(config_file):
    # YAML 1.1 reads 1e-4 as a string.
    assert yaml.safe_load("1e-4") == "1e-4"
    _, _, training = parse("--config", config_file("learning_rate: 1e-4\nweight_decay: 5E-2\n"))
    assert training.learning_rate == 1e-4 and training.weight_decay == 0.05


def test_command_line_wins(config_file):
    path = config_file({"lambda_lip": 0.5, "strategy": "orthogonal", "learning_rate": 1e-3})
    for argv in (["--config", path, "--lambda_lip", "0.05"], ["--lambda_lip=0.05", "--config", path]):
        model, _, training = parse(*argv)
        assert (training.lambda_lip, training.learning_rate, model.strategy) == (0.05, 1e-3, "orthogonal")


@pytest.mark.parametrize(
    ("in_file", "argv", "expected"),
    [
        ({"max_steps": 9, "num_train_epochs": 1.0}, ["--num_train_epochs", "3"], {"num_train_epochs": 3.0}),
        ({"max_steps": -1, "num_train_epochs": 2.0}, ["--max_steps", "5"], {"max_steps": 5}),
        (
            {"total_batch_size": 16, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1},
            ["--per_device_train_batch_size", "4"],
            {"total_batch_size": 16, "gradient_accumulation_steps": 4},
        ),
        (
            {"total_batch_size": 16, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1},
            ["--total_batch_size", "32"],
            {"total_batch_size": 32, "gradient_accumulation_steps": 2},
        ),
        (
            {"total_batch_size": 16, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
            ["--gradient_accumulation_steps", "2"],
            {"total_batch_size": 16, "per_device_train_batch_size": 8},
        ),
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
            ["--per_device_train_batch_size", "4"],
            {"total_batch_size": 16, "gradient_accumulation_steps": 4},
        ),
    ],
)
def test_command_line_wins_over_options_that_exclude_it(config_file, in_file, argv, expected):
    _, _, training = parse("--config", config_file(in_file), *argv)
    assert {name: getattr(training, name) for name in expected} == expected
    if "num_train_epochs" in expected:
        assert training.max_steps == -1


@pytest.mark.parametrize(
    ("key", "near"), [("lambda_lipp", "lambda_lip"), ("stratgy", "strategy"), ("datset", "dataset")]
)
def test_unknown_key_names_file_and_nearest_key(config_file, key, near):
    path = config_file({key: 1})
    with pytest.raises(InputError) as error:
        parse("--config", path)
    assert repr(key) in str(error.value) and path in str(error.value) and f"did you mean {near!r}" in str(error.value)


def test_unknown_key_like_no_other(config_file):
    with pytest.raises(InputError, match="Unknown key 'zzzzzzzz'.*--help_all"):
        parse("--config", config_file({"zzzzzzzz": 1}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n- b\n", "not a mapping"),
        ("", "not a mapping"),
        ("a: [1\nb: 2", "neither YAML nor JSON"),
        ("\0", "neither"),
    ],
)
def test_files_that_are_no_configuration(config_file, content, words):
    path = config_file(content)
    with pytest.raises(InputError) as error:
        parse("--config", path)
    assert words in str(error.value) and path in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match="cannot be read") as error:
            parse("--config", str(path))
        assert str(path) in str(error.value)
    for argv in (["--config"], ["--config", "--use_cpu"]):
        with pytest.raises(InputError, match="--config needs a file"):
            parse_arguments("segmentation", argv)


def test_an_option_is_found_on_the_command_line():
    assert find_option("--config", ["--strategy", "none"]) is None
    assert find_option("--config", ["--strategy", "none", "--config", "a.yaml", "--use_cpu"]) == "a.yaml"
    assert find_option("--config", ["--use_cpu", "--config=b.yaml"]) == "b.yaml"
    assert find_option("--config", ["--config=b.yaml", "--config", "c.yaml"]) == "c.yaml", "as argparse has it"


@dataclass
class Numbers:
    one: float = 0.0
    many: list[float] = field(default_factory=list)


@pytest.mark.parametrize("number", ["-1", "-0.5", "-.5", "-5.", "-1e-3", "-1E3", "-2.5e+1", "-.5e-10"])
def test_negative_numbers_are_values(number):
    parsed = OneLineParser(Numbers).parse_args(["--many", "1", number, "--one", number])
    assert (parsed.one, parsed.many) == (float(number), [1.0, float(number)])


@pytest.mark.parametrize("option", ["-e", "-1e", "-1e-3x", "-one", "--1e-3"])
def test_what_is_no_negative_number_is_an_unknown_option(option):
    with pytest.raises(InputError, match="--help"):
        OneLineParser(Numbers).parse_args(["--one", "1", option])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--strategy", "softplus"], ["--strategy", "softplus", "stable_softplus", "jacobian_norm"]),
        (["--scope", "encoder"], ["--scope", "encoder", "network", "projections", "certified"]),
        (["--lambda_lipp", "1"], ["--lambda_lipp", "did you mean --lambda_lip?"]),
        (["camvid", "--learning_rte=1"], ["camvid", "did you mean --learning_rate?"]),
        (["camvid"], ["camvid", "see --help"]),
        (["--lambda", "1"], ["--lambda"]),
        (["--learning_rate", "fast"], ["--learning_rate", "fast"]),
        (["--lambda_lip", "-1e-3"], ["--lambda_lip", "-0.001"]),
        (["--eval_strategy", "sometimes"], ["sometimes"]),
        (["--lr_scheduler_type", "wavy"], ["wavy"]),
    ],
)
def test_wrong_options_are_one_line(argv, words):
    with pytest.raises(InputError) as error:
        parse(*argv)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_recipes():
    _, _, segmentation = parse()
    assert (segmentation.learning_rate, segmentation.weight_decay, segmentation.max_steps) == (6e-5, 0.01, 160_000)
    _, _, classification = parse(task="classification")
    assert (classification.learning_rate, classification.weight_decay) == (1e-4, 0.05)
    assert (classification.total_batch_size, classification.max_grad_norm) == (128, 1.0)
    assert classification.max_steps == -1 and classification.num_train_epochs == 10


@pytest.mark.parametrize(
    ("argv", "sizes"),
    [
        ([], (16, 16, 1)),
        (["--per_device_train_batch_size", "4"], (16, 4, 4)),
        (["--gradient_accumulation_steps", "2"], (16, 8, 2)),
        (["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"], (8, 4, 2)),
        (["--total_batch_size", "8", "--per_device_train_batch_size", "2"], (8, 2, 4)),
    ],
)
def test_the_command_line_keeps_the_total_of_its_recipe(argv, sizes):
    _, _, training = parse(*argv)
    assert sizes == (
        training.total_batch_size,
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
    )


def test_steps_replace_the_epochs_of_a_recipe(config_file):
    for argv in (["--max_steps", "3"], ["--config", config_file({"max_steps": 3})]):
        assert parse(*argv, task="classification")[2].max_steps == 3
    _, _, training = parse("--num_train_epochs", "2.5")
    assert training.max_steps == -1 and training.num_train_epochs == 2.5


ROUND_TRIPS = {
    "defaults": ("segmentation", []),
    "recipe": ("classification", []),
    "recipe overridden with the other task's defaults": (
        "classification",
        ["--learning_rate", "6e-5", "--weight_decay", "0.01", "--max_grad_norm", "0", "--warmup_steps", "0.009375"],
    ),
    "epochs": ("segmentation", ["--num_train_epochs", "2"]),
    "steps": ("classification", ["--max_steps", "5", "--total_batch_size", "8", "--per_device_train_batch_size", "2"]),
    "many": (
        "segmentation",
        "--strategy geometric_mean --scope projections --dataset digits --max_train_samples 8 "
        "--reduce_zero_label True "
        '--lipschitz_options {"norm":"l1"} --warmup_steps 10 --lambda_lip 0 --report_to tensorboard '
        "--gradient_accumulation_steps 4 --bf16 False --output_dir somewhere/run --class_names a,b "
        "--load_best_model_at_end --metric_for_best_model mean_iou --eval_steps 5 --save_steps 5 --optim sgd "
        "--dataloader_num_workers 0 --score_at resized --label_smoothing_factor 0.1 --save_strategy steps".split(),
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_run_configuration_is_taken_back(tmp_path, name):
    task, argv = ROUND_TRIPS[name]
    arguments = parse(*argv, task=task)
    write_run_config(tmp_path, "finetune-seg", *arguments)
    again = parse_arguments(task, ["--config", str(tmp_path / "run.yaml")])
    assert again[:2] == arguments[:2]
    assert again[2].to_dict() == arguments[2].to_dict()


def test_run_configuration_is_short_and_without_secrets(tmp_path):
    arguments = parse("--hub_token", "hf_secret", "--resume_from_checkpoint", "--lambda_lip", "0.3")
    config = arguments_to_config(*arguments)
    assert config["lambda_lip"] == 0.3 and "resume_from_checkpoint" not in config and len(config) < 30
    assert "hf_secret" not in json.dumps(config)


def test_run_configuration_fits_another_number_of_processes(config_file, tmp_path, monkeypatch):
    write_run_config(tmp_path, "finetune-seg", *parse("--total_batch_size", "12"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: setattr(self, "_n_gpu", 0))
    _, _, training = parse("--config", str(tmp_path / "run.yaml"))
    assert (training.total_batch_size, training.per_device_train_batch_size) == (12, 3)
