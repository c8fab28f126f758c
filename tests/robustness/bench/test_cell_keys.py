"""
The keys of cells, to the last digit: reports that people keep go on under them, so a change of a name, a default or a
field of a condition must not pass unseen.
"""

from lrsegformer.robustness.bench.arguments import RobustnessArguments, attack_conditions
from lrsegformer.robustness.bench.cells import cell_key
from lrsegformer.robustness.conditions import Condition

KEYS = {
    "clean": "5dbdcbde51a3a78a",
    "gradients": "6488f308631c714f",
    "reliability": "141708f1ec1251c4",
    "train": "2cdb72b00c007ce6",
    "fog-3": "c4b298fb97e37341",
    "imagenet-c-fog-2": "ce6df1c192b84379",
    "other": "e7f1a1f0fa74008e",
    "fgsm-linf-0.5": "f3238f059630f6ac",
    "pgd-linf-0.5": "6e5d6fae55f0bb82",
    "segpgd-linf-0.5": "33bd2d586e32facd",
    "cospgd-linf-0.5": "8b38fe64b854556a",
    "apgd-linf-0.5": "869410917fd93253",
    "sea-linf-0.5": "ae87762ec49e9528",
    "alma_prox-linf": "6f70c1db724d167d",
    "autoattack-linf-0.5": "47b3ab299a6f10ad",
    "square-linf-0.5": "cf62b22201e62f37",
    "fgsm-l2-0.5": "0575f0b535c3ef83",
    "pgd-l2-0.5": "13d9ded5e4fb1b04",
    "apgd-l2-0.5": "c230e7c4928b7414",
    "sea-l2-0.5": "c6caa719b5bbad56",
    "autoattack-l2-0.5": "fb516e0e7b56ae1d",
    "square-l2-0.5": "b4c69837bb2ca305",
    "fmn-l2": "2199e030874d1737",
    "fgsm-per_pixel_l2-0.5": "1475f3896c8755fb",
    "pgd-per_pixel_l2-0.5": "68db140ebf018607",
    "segpgd-per_pixel_l2-0.5": "36141f7caca98538",
    "cospgd-per_pixel_l2-0.5": "350dda6fd1c8348d",
    "apgd-per_pixel_l2-0.5": "2d631e538085e2d9",
    "sea-per_pixel_l2-0.5": "d1688cc75371eae6",
    "fgsm-targeted-linf-2": "30c2c51d8ea39240",
    "pgd-targeted-linf-2": "d082417101572e8f",
    "apgd-targeted-linf-2": "8c8a07e1bcd12466",
}


def conditions() -> list[Condition]:
    """One of each kind, every attack with its default numbers in each of its norms, and targeted ones."""
    found = [
        *(Condition(kind) for kind in ("clean", "gradients", "reliability", "train")),
        Condition("corruption", "fog", severity=3),
        Condition("shifted", "imagenet-c/fog", severity=2),
        Condition("shifted", "other"),
    ]
    attacks = {
        "linf": "fgsm pgd segpgd cospgd apgd sea alma_prox autoattack square",
        "l2": "fgsm pgd apgd sea autoattack square fmn",
        "per_pixel_l2": "fgsm pgd segpgd cospgd apgd sea",
    }
    for norm, names in attacks.items():
        found += attack_conditions(RobustnessArguments(models=["m"], attacks=names.split(), norm=norm, eps=[0.5]))
    targeted = {"attacks": ["fgsm", "pgd", "apgd"], "eps": [2.0], "steps": 7, "restarts": 3, "targeted": True}
    return found + attack_conditions(RobustnessArguments(models=["m"], **targeted))


def test_keys_of_cells_stay():
    options = {"seed": 42, "names": ["a", "b"]}
    assert {one.label: cell_key("weights", "data", one, options) for one in conditions()} == KEYS
