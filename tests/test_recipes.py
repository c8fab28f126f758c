"""`--recipe`: what each sets for each task, that what is given wins, and what contradicts it."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from lrsegformer.choices import TASKS
from lrsegformer.cli import finetune, run
from lrsegformer.cli.finetune import main, parse_arguments
from lrsegformer.cli.matrix import judge
from lrsegformer.cli.run import split_options
from lrsegformer.errors import InputError
from lrsegformer.layers.registry import DEFAULT_STRATEGY
from lrsegformer.matrix.cells import draft_cells
from lrsegformer.matrix.definition import parse_definition
from lrsegformer.matrix.planning import Request
from lrsegformer.recipes import RECIPES, SCOPE_DEFAULTS, TASK_DEFAULTS, recipe_in_words, recipe_options
from lrsegformer.training.run.run_config import write_run_config

RATES = {
    "learning_rate": 5e-3, "head_learning_rate_multiplier": 1.0, "weight_decay": 0.0, "warmup_steps": 0.05,
    "max_grad_norm": 0.0,
}  # fmt: skip
# By recipe and task, as docs/recipes.md has it.
SETS = {
    ("default", "segmentation"): {},
    ("default", "classification"): {},
    ("robust", "segmentation"): {
        "strategy": "jacobian_norm", "lipschitz_options": '{"jacobian": "network"}', "lambda_lip": 0.1,
    },
    ("robust", "classification"): {"adversarial_steps": 1, "adversarial_eps": 1.0},
    ("certified", "segmentation"): {"strategy": "orthogonal", "scope": "certified", **RATES},
    ("certified", "classification"): {"strategy": "orthogonal", "scope": "certified", **RATES},
}  # fmt: skip
# Others than any recipe or default has.
GIVEN = {
    "adversarial_steps": 3, "adversarial_eps": 0.5, "learning_rate": 1e-5, "head_learning_rate_multiplier": 10.0,
    "weight_decay": 0.2, "warmup_steps": 7.0, "max_grad_norm": 3.0, "lambda_lip": 0.7,
    "lipschitz_options": '{"jacobian": "head"}',
}  # fmt: skip
RUN = (
    "--dataset digits --architecture tiny --image_size 32 --use_cpu --max_train_samples 8 --max_eval_samples 2 "
    "--total_batch_size 4 --max_steps 2 --dataloader_num_workers 0 --eval_strategy no --save_strategy steps "
    "--save_steps 1 --disable_tqdm True"
).split()


def options_of(*argv: str, task: str = "segmentation", **defaults) -> dict:
    groups = parse_arguments(task, ["--use_cpu", *argv], **defaults)
    return {item.name: getattr(group, item.name) for group in groups for item in dataclasses.fields(group)}


def words(options: dict) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_the_table_is_whole():
    assert list(RECIPES) == ["default", "robust", "certified"]
    assert all(set(by_task) == set(TASKS) for by_task in (TASK_DEFAULTS, *RECIPES.values()))
    assert set(SETS) == {(recipe, task) for recipe in RECIPES for task in TASKS}


@pytest.mark.parametrize(("recipe", "task"), SETS)
def test_a_recipe_sets_its_options_and_no_other(recipe, task):
    plain, found = options_of(task=task), options_of("--recipe", recipe, task=task)
    expected = {**plain, **SETS[recipe, task], "recipe": recipe}
    ignored = ("output_dir", "logging_dir")
    assert {name: value for name, value in found.items() if name not in ignored} == {
        name: value for name, value in expected.items() if name not in ignored
    }
    assert recipe_options(task, recipe) == SETS[recipe, task]


@pytest.mark.parametrize(("recipe", "task"), SETS)
def test_what_is_given_wins(recipe, task, tmp_path):
    given = {name: value for name, value in GIVEN.items() if name in SETS[recipe, task]}
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"recipe": recipe, **given}))
    for argv in (["--recipe", recipe, *words(given)], [*words(given), "--recipe", recipe], ["--config", str(file)]):
        found = options_of(*argv, task=task)
        assert {name: found[name] for name in given} == given
        left = {name: value for name, value in SETS[recipe, task].items() if name not in given}
        assert {name: found[name] for name in left} == left
    if given:
        name = next(iter(given))
        found = options_of("--config", str(file), f"--{name}", str(SETS[recipe, task][name]), task=task)
        assert found[name] == SETS[recipe, task][name], "the command line over the file"


def test_a_recipe_wins_over_the_strategy_of_the_command():
    for recipe, task in SETS:
        task, argv = split_options(["--task", task, "--recipe", recipe])
        strategy = SETS[recipe, task].get("strategy", DEFAULT_STRATEGY)
        assert options_of(*argv, task=task, strategy=DEFAULT_STRATEGY)["strategy"] == strategy
    assert options_of("--recipe", "certified", "--strategy", "spectral_norm")["strategy"] == "spectral_norm"
    task, argv = split_options(["--task", "classification", "--variant", "baseline", "--recipe", "robust"])
    assert options_of(*argv, task=task, strategy=DEFAULT_STRATEGY)["strategy"] == "none"


def test_a_scope_brings_its_defaults_without_and_beside_a_recipe():
    argv = ["--scope", "certified", "--strategy", "orthogonal"]
    for recipe in (["--recipe", "default"], ["--recipe", "robust"], []):
        found = options_of(*argv, *recipe, task="classification")
        assert {name: found[name] for name in RATES} == RATES == SCOPE_DEFAULTS["certified"]
        assert found["adversarial_steps"] == (recipe[1:] == ["robust"])
    assert options_of(*argv, "--learning_rate", "1e-4")["learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "--recipe certified --scope head",
            "--recipe certified has --scope certified, which --scope head contradicts",
        ),
        ("--recipe certified --strategy none", "has --strategy orthogonal, which --strategy none contradicts"),
        ("--recipe certified --lora_r 2", "--lora_r with --scope certified"),
        ("--recipe robus", "--recipe.*robus.*robust"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_contradictions_are_one_line(task, argv, message):
    assert_one_line(task, argv, message)


@pytest.mark.parametrize(
    ("task", "argv", "message"),
    [
        ("segmentation", "--strategy none", "has --strategy jacobian_norm, which --strategy none contradicts"),
        ("segmentation", "--strategy orthogonal", "which --strategy orthogonal contradicts"),
        ("segmentation", "--lambda_lip 0", "has --lambda_lip 0.1, which --lambda_lip 0 contradicts"),
        ("classification", "--adversarial_steps 0", "has --adversarial_steps 1, which --adversarial_steps 0 contrad"),
        ("classification", "--adversarial_eps 0", "--adversarial_eps"),
    ],
)
def test_contradictions_of_robust_are_those_of_its_task(task, argv, message):
    assert_one_line(task, f"--recipe robust {argv}", message)


def assert_one_line(task, argv, message):
    with pytest.raises(InputError, match=message) as raised:
        options_of(*argv.split(), task=task)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("recipe", "task"), SETS)
def test_the_configuration_of_a_run_is_taken_back(recipe, task, tmp_path):
    # Values that are the plain defaults are among those that a recipe changes.
    plain = {name: value for name, value in options_of(task=task).items() if name in RATES}
    for given in ({}, plain):
        groups = parse_arguments(task, ["--use_cpu", "--recipe", recipe, *words(given)])
        write_run_config(tmp_path, "finetune-seg", *groups)
        written = yaml.safe_load((tmp_path / "run.yaml").read_text())
        assert written["recipe"] == recipe
        expected = {name: given.get(name, value) for name, value in SETS[recipe, task].items()}
        assert {name: written[name] for name in expected} == expected
        again = parse_arguments(task, ["--config", str(tmp_path / "run.yaml")])
        assert again[:2] == groups[:2] and again[2].to_dict() == groups[2].to_dict()


def test_words():
    values = options_of("--recipe", "certified", "--learning_rate", "1e-3")
    assert recipe_in_words("segmentation", "certified", values) == (
        "certified: head_learning_rate_multiplier 1, weight_decay 0, warmup_steps 0.05, max_grad_norm 0, strategy "
        "orthogonal, scope certified; given by itself: learning_rate 0.001 instead of 0.005"
    )
    assert recipe_in_words("segmentation", "default", options_of()) == "default: nothing beyond the defaults"


@pytest.mark.parametrize("parser", [lambda: finetune.build_parser("segmentation"), run.build_parser])
def test_help_says_what_each_sets(parser):
    text = " ".join(parser().format_help().split())
    assert "--lambda_lip 0.1 (segmentation); --adversarial_steps 1 --adversarial_eps 1 (classification)." in text
    assert "'certified': --learning_rate 0.005" in text and "--strategy orthogonal --scope certified." in text
    assert "--recipe {default,robust,certified}" in text


def test_cells_of_a_matrix_have_recipes():
    definition = parse_definition(
        {
            "tasks": list(TASKS),
            "variants": ["baseline"],
            "seeds": [0],
            "cells": {"certificates": {"recipe": "certified"}, "robust": {"recipe": "robust"}},
        },
        "m.yaml",
    )
    drafts = {draft.label: draft for draft in draft_cells(definition)}
    for task in TASKS:
        cell = f"{task}-orthogonal-certified-lambda0.1-certificates-seed0"
        assert {cell, f"{task}-baseline-seed0"} <= set(drafts)
    robust = {"segmentation-jacobian_norm-head-lambda0.1-robust-seed0", "classification-baseline-robust-seed0"}
    assert robust <= set(drafts)
    wrong = Request("segmentation", {"recipe": "certified", "strategy": "none"})
    *verdicts, refused = judge([*(Request(draft.task, draft.options) for draft in drafts.values()), wrong])
    assert len(verdicts) == 6 and all(verdict.error is None and verdict.refusal is None for verdict in verdicts)
    assert "--strategy none contradicts" in refused.error


@pytest.fixture(scope="module")
def robust_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("robust") / "run"
    main("classification", [*RUN, "--recipe", "robust", "--output_dir", str(folder)])
    return folder


def test_a_run_says_its_recipe(robust_run):
    said = "robust: adversarial_steps 1, adversarial_eps 1"
    assert f"`{said}`" in (robust_run / "README.md").read_text()
    assert yaml.safe_load((robust_run / "run.yaml").read_text())["adversarial_eps"] == 1.0


def test_a_run_goes_on_with_its_recipe_alone(robust_run, tmp_path, capsys, caplog):
    checkpoint = ["--resume_from_checkpoint", str(robust_run / "checkpoint-1"), "--output_dir", str(tmp_path / "run")]
    for argv in ([], ["--recipe", "certified", "--strategy", "spectral_norm"]):
        with pytest.raises(SystemExit) as stop:
            main("classification", [*RUN, *argv, *checkpoint])
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 2 and "was begun with --recipe robust; give that" in line
        assert not (tmp_path / "run").exists()
    with caplog.at_level("INFO"):
        main("classification", [*RUN, "--recipe", "robust", *checkpoint])
    assert caplog.messages[0] == "Recipe robust: adversarial_steps 1, adversarial_eps 1."
    for name in ("model.safetensors", "run.yaml"):
        first, again = ((folder / name).read_bytes() for folder in (robust_run, tmp_path / "run"))
        if name == "run.yaml":
            first, again = (yaml.safe_load(text) | {"output_dir": ""} for text in (first, again))
        assert again == first, name
    logs = [
        json.loads((folder / "trainer_state.json").read_text())["log_history"][1]["loss"]
        for folder in (robust_run, tmp_path / "run")
    ]
    assert logs[0] == logs[1]
