"""What a matrix file may say, and the line for each thing that it may not."""

import pytest

from lrsegformer.errors import InputError
from lrsegformer.matrix.cells import draft_cells
from lrsegformer.matrix.definition import matches, parse_definition

SMALLEST = {"tasks": ["segmentation"]}


def names(**content) -> list[str]:
    return [draft.label for draft in draft_cells(parse_definition({**SMALLEST, **content}, "m.yaml"))]


def test_the_lists_are_multiplied_and_a_baseline_stands_once_a_task_and_seed():
    found = names(
        tasks=["segmentation", "classification"],
        variants=["baseline", "lipschitz"],
        strategies=["orthogonal", "geometric_mean"],
        scopes=["head", "network"],
        lambdas=[0.1, "1e-2"],
        seeds=[0, 1],
    )
    assert len(found) == len(set(found)) == 2 * 2 + 2 * 2 * 2 * 2 * 2
    assert "segmentation-baseline-seed1" in found
    assert "classification-geometric_mean-network-lambda0.01-seed0" in found


def test_what_is_not_given_is_that_of_the_command():
    assert names() == ["segmentation-stable_softplus-head-lambda0.1-seed42"]


def test_a_variation_multiplies_and_an_empty_one_is_the_plain_run():
    found = names(variations={"plain": None, "wide": {"learning_rate": 1}}, seeds=[3])
    stem = "segmentation-stable_softplus-head-lambda0.1"
    assert found == [f"{stem}-seed3", f"{stem}-wide-seed3"]


def test_named_cells_are_repeated_for_tasks_and_seeds_that_they_do_not_name():
    cells = {"decay": {"weight_decay": 0.1}, "both": {"task": "segmentation", "strategy": "orthogonal", "seed": 9}}
    found = names(tasks=["segmentation", "classification"], variants=["baseline"], seeds=[0, 1], cells=cells)
    assert found[4:] == [
        "segmentation-baseline-decay-seed0",
        "segmentation-baseline-decay-seed1",
        "classification-baseline-decay-seed0",
        "classification-baseline-decay-seed1",
        "segmentation-orthogonal-head-lambda0.1-both-seed9",
    ]


def test_options_come_from_the_general_to_the_particular():
    content = {
        **SMALLEST,
        "common": {"max_steps": 1, "learning_rate": 1, "weight_decay": 1},
        "per_task": {"segmentation": {"max_steps": 2, "learning_rate": 2}},
        "variations": {"long": {"max_steps": 3}},
    }
    (draft,) = draft_cells(parse_definition(content, "m.yaml"))
    assert [draft.options[name] for name in ("weight_decay", "learning_rate", "max_steps")] == [1, 2, 3]


def test_excluded_combinations():
    lists = {"strategies": ["orthogonal", "spectral_norm"], "scopes": ["head", "network"], "lambdas": [0.1, 1]}
    assert len(names(**lists, exclude=[{"strategy": "orthogonal", "lambda_lip": 1}])) == 6
    assert len(names(**lists, exclude=[{"scope": ["head"], "lambda_lip": ["1e0", 0.1]}])) == 4
    assert names(**lists, variants=["baseline", "lipschitz"], exclude=[{"variant": "lipschitz"}]) == [
        "segmentation-baseline-seed42"
    ]


def test_a_pattern_holds_where_all_of_it_does():
    cell = {"task": "segmentation", "strategy": None, "seed": 1}
    assert matches({}, cell) and matches({"strategy": None, "seed": [0, 1]}, cell)
    assert not matches({"task": "segmentation", "seed": 2}, cell)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"strategy": ["orthogonal"]}, ["'strategy'", "did you mean 'strategies'"]),
        ({"tasks": []}, ["tasks", "at least one"]),
        ({"tasks": None}, ["names no tasks"]),
        ({"tasks": ["detection"]}, ["tasks", "'detection'", "segmentation, classification"]),
        ({"strategies": ["ortogonal"]}, ["strategies", "'ortogonal'", "spectral_norm"]),
        ({"scopes": "all"}, ["scopes", "'all'", "certified"]),
        ({"lambdas": ["much"]}, ["lambdas", "'much'", "numbers"]),
        ({"seeds": [0.5]}, ["seeds", "0.5", "whole numbers"]),
        ({"seeds": [True]}, ["seeds", "True"]),
        ({"common": ["a"]}, ["common", "no mapping"]),
        ({"common": {"output_dir": "x"}}, ["common", "output_dir", "leave it out"]),
        ({"common": {"strategy": "orthogonal"}}, ["common", "strategy", "lists"]),
        ({"common": {"seed": 1}, "seeds": [1]}, ["seed is given by seeds and in common"]),
        ({"per_task": {"segmentation": {"scope": "head"}}, "scopes": ["head"]}, ["scopes", "per_task: segmentation"]),
        ({"per_task": {"classification": {}}}, ["per_task", "'classification'", "not among the tasks"]),
        ({"variations": {"a/b": {}}}, ["variations", "'a/b'", "letters"]),
        ({"variations": {"x": {"task": "segmentation"}}}, ["variations: x", "task"]),
        ({"variations": {"x": {}}, "cells": {"x": {}}}, ["'x'", "rename"]),
        ({"cells": {"x": {"task": "classification"}}}, ["cells: x", "classification"]),
        ({"cells": {"x": {"variant": "stock"}}}, ["cells: x", "'stock'", "baseline, lipschitz"]),
        ({"cells": {"x": {"variant": "baseline", "strategy": "orthogonal"}}}, ["cells: x", "leave one out"]),
        ({"cells": {"x": {"variant": "lipschitz"}}}, ["cells: x", "needs a strategy"]),
        ({"exclude": {"seed": 1}}, ["exclude", "list of mappings"]),
        ({"exclude": [{"colour": 1}]}, ["exclude", "'colour'", "task, variant"]),
        ({"exclude": [{"seed": 7}]}, ["exclude", "{'seed': 7}", "fits no cell"]),
        ({"exclude": [{"task": "segmentation"}]}, ["every cell is excluded"]),
        ({"then": {"attack": {}}}, ["then: attack", "robustness, certify"]),
        ({"then": {"robustness": {"models": "x"}}}, ["then: robustness", "models", "leave it out"]),
        ({"then": {"certify": {"only": {"colour": 1}}}}, ["then: certify, only", "'colour'"]),
    ],
)
def test_what_a_file_may_not_say_is_one_line(content, words):
    with pytest.raises(InputError) as error:
        draft_cells(parse_definition({**SMALLEST, **content}, "m.yaml"))
    assert all(word in str(error.value) for word in ["m.yaml", *words]) and "\n" not in str(error.value), error.value
