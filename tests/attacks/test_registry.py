"""The rows of the registry say of each attack what its function does, and one call runs any of them."""

import argparse
import importlib.util
import inspect
import re
from dataclasses import replace

import pytest
import torch

from lrsegformer.attacks.base import AttackResult
from lrsegformer.attacks.registry import ATTACKS, at_home, followers, what_attacks_do
from lrsegformer.attacks.run import run_attack
from lrsegformer.attacks.targets import target_labels
from lrsegformer.attacks.threat import Threat
from lrsegformer.choices import NORMS, TASKS
from lrsegformer.errors import InputError

OPTIONS = {"steps", "restarts", "seed", "targeted", "image_ids"}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_row_fits_its_function(name):
    attack = ATTACKS[name]
    parameters = inspect.signature(at_home(attack.home)).parameters
    assert list(parameters)[:4] == ["model", "images", "labels", "threat"]
    fixed = OPTIONS & attack.arguments.keys()
    assert set(attack.takes) <= OPTIONS & parameters.keys() - fixed
    assert fixed or set(attack.takes) == OPTIONS & parameters.keys(), "the row says which of the shared options it has"
    assert attack.arguments.keys() <= parameters.keys() - set(attack.takes)
    assert ("steps" in attack.takes) == (attack.steps is not None)
    if attack.steps is not None:
        assert parameters["steps"].default in (inspect.Parameter.empty, attack.steps)
    assert set(attack.tasks) <= set(TASKS) and set(attack.norms) <= set(NORMS) and attack.what
    assert attack.flags is None or callable(at_home(attack.flags))


def test_help_follows_from_the_rows():
    groups = re.findall(r"([a-z_, ]+?) \((\d+)\)(?:, |$)", followers("steps"))
    assert {name: int(steps) for names, steps in groups for name in names.split(", ")} == {
        name: attack.steps for name, attack in ATTACKS.items() if "steps" in attack.takes and not attack.own_steps
    }
    assert {"pgd", "sea"} <= {name for names, _ in groups for name in names.split(", ")}
    for option in ("restarts", "targeted"):
        assert followers(option).split(", ") == [name for name, attack in ATTACKS.items() if option in attack.takes]
    assert all(f"{name}: {attack.what}" in what_attacks_do() for name, attack in ATTACKS.items())


def test_a_percent_sign_in_a_row_does_not_break_the_help(monkeypatch):
    monkeypatch.setitem(ATTACKS, "pgd", replace(ATTACKS["pgd"], what="wins 99 % of the pixels"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--attacks", help=what_attacks_do())
    assert "99 % of the pixels" in " ".join(parser.format_help().split())


@pytest.fixture
def of_task(segmenter, scenes, digits_classifier):
    """A model of each task with four images and their labels."""
    classifier, images, labels = digits_classifier
    classifier.num_labels = 10
    return {
        "segmentation": (segmenter, scenes[0][:4], scenes[1][:4]),
        "classification": (classifier, images[:4], labels[:4]),
    }


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in ATTACKS for task in ATTACKS[name].tasks])
def test_every_attack_is_called_in_the_same_way(of_task, request, name, task):
    attack = ATTACKS[name]
    if attack.package is not None and importlib.util.find_spec(attack.package.partition(".")[0]) is None:
        pytest.skip(f"{attack.package} is not installed")
    if name == "autoattack":
        request.getfixturevalue("shortened")
    model, images, labels = of_task[task]
    for norm in attack.norms:
        threat = Threat(norm, 0.05 if norm == "linf" else 0.5)
        steps = None if attack.steps is None else 5
        found = run_attack(name, model, images, labels, threat, steps=steps, seed=3, image_ids=[5, 6, 7, 8])
        assert isinstance(found, AttackResult) and found.accuracy.shape == (4,) and found.targets is None
        assert threat.distance(found.images, images).max() <= threat.radius + 1e-6
        assert found.images.min() >= 0 and found.images.max() <= 1
        assert (found.distances is not None) == attack.finds_radius


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd"])
def test_targets_are_drawn_and_told(of_task, name):
    model, images, labels = of_task["classification"]
    found = run_attack(name, model, images, labels, Threat("linf", 0.2), seed=3, targeted=True, image_ids=[5, 6, 7, 8])
    assert torch.equal(found.targets, target_labels(labels, [5, 6, 7, 8], 10, 3))
    assert torch.equal(found.accuracy, (model(found.images).argmax(dim=1) == found.targets).double())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pdg", {}, "unknown attack 'pdg': the attacks are .*segpgd"),
        ("sea", {"targeted": True}, "the attack sea has no option targeted"),
        ("fgsm", {"steps": 3}, "the attack fgsm has no option steps"),
        ("square", {"restarts": 2}, "the attack square has no option restarts"),
    ],
)
def test_an_option_that_an_attack_does_not_have_is_refused(of_task, name, options, message):
    with pytest.raises(InputError, match=message):
        run_attack(name, *of_task["classification"], Threat("linf", 0.1), **options)
