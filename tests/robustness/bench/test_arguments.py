"""Options of the bench that contradict each other, or that nothing would use."""

import pytest

from lrsegformer.attacks.registry import ATTACKS
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import RobustnessArguments, attack_conditions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "--steps is used by none of the attacks: .* pgd"),
        ({"attacks": ["fgsm"], "eps": [1.0], "restarts": 2}, "--restarts is used by none of the attacks"),
        ({"targeted": True}, "--targeted is used by none of the attacks"),
        ({"shifted": ["clean=folder"]}, "a name of your own"),
        ({"shifted": ["=folder"]}, "a name of your own"),
        ({"shifted": ["a=one", "a=two"]}, "the name a stands for two data sets"),
    ],
)
def test_options_without_sense(options, message):
    with pytest.raises(InputError, match=message) as caught:
        RobustnessArguments(models=["m"], **options)
    assert "\n" not in str(caught.value)


def test_repeated_options_count_once():
    arguments = RobustnessArguments(models=["m", "m"], shifted=["a=one", "a=one"], attacks=["pgd", "pgd"], eps=[1, 1])
    assert (arguments.models, arguments.shifted) == (["m"], ["a=one"])
    assert len(attack_conditions(arguments)) == 1


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.finds_radius])
def test_one_run_of_a_minimum_norm_attack_serves_all_radii(name):
    attack = ATTACKS[name]
    arguments = RobustnessArguments(models=["m"], attacks=[name], eps=[1, 2], norm=attack.norms[0])
    (condition,) = attack_conditions(arguments)
    assert condition.radius is None and condition.steps == attack.steps
