"""
The attacks and what may be said of each. Light on purpose: option parsing imports it.

A new attack is a file with a function, and a row here. The function is called as
`function(model, images, labels, threat, **options)` and gives an [`~lrsegformer.attacks.base.AttackResult`]; `options`
are those of `steps`, `restarts`, `seed`, `targeted` and `image_ids` that its row says it takes. From the rows follow
the help texts, the packages that a run needs and the checks on PGD; [`~lrsegformer.attacks.run.run_attack`] runs any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from lrsegformer.choices import NORMS, TASKS


@dataclass(frozen=True)
class Attack:
    """
    A row of the registry.

    Attributes:
        home (`str`): `"module:function"`, imported when it is used.
        what (`str`): what it does, for `--help`.
        takes (`tuple[str, ...]`): its options, of `"steps"`, `"restarts"`, `"seed"`, `"targeted"`, `"image_ids"`.
        arguments (`dict`): what the function is always given besides.
        tasks, norms (`tuple[str, ...]`): those that it has.
        steps (`int`, *optional*): by default; `None` where there is no such number.
        own_steps (`bool`): whether its steps are of a kind of their own, such as queries, which `--steps` leaves
            alone.
        package (`str`, *optional*): module of an optional package that it runs through.
        hangs_on_batch (`bool`): whether what it finds hangs on `--batch_size`, as where its random numbers are drawn
            for a batch.
        finds_radius (`bool`): whether it looks for the smallest perturbation, so that one run serves all radii.
        stronger (`bool`): whether PGD is checked by it: where it leaves less accuracy, gradients may be masked.
        flags (`str`, *optional*): `"module:function"` from the `broken_by` of all images of a data set to warnings.
    """

    home: str
    what: str
    takes: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = TASKS
    norms: tuple[str, ...] = NORMS
    steps: int | None = None
    own_steps: bool = False
    package: str | None = None
    hangs_on_batch: bool = False
    finds_radius: bool = False
    stronger: bool = False
    flags: str | None = None

    def follows(self, option: str) -> bool:
        """Whether it follows `--steps`, `--restarts` or `--targeted`."""
        return option in self.takes and not (option == "steps" and self.own_steps)


SEGMENTATION, CLASSIFICATION = TASKS[:1], TASKS[1:]
_PGD = "lrsegformer.attacks.pgd:pgd"
_OF_AN_ASCENT = {"takes": ("steps", "restarts", "seed", "targeted", "image_ids"), "steps": 20}

ATTACKS = {
    "fgsm": Attack(
        _PGD,
        "one full step on the cross-entropy",
        takes=("targeted",),
        arguments={"steps": 1, "random_start": False},
    ),
    "pgd": Attack(_PGD, "projected gradient on the cross-entropy", **_OF_AN_ASCENT),
    "segpgd": Attack(
        _PGD,
        "PGD whose weight moves from right to wrong pixels",
        arguments={"objective": "segpgd"},
        tasks=SEGMENTATION,
        **_OF_AN_ASCENT,
    ),
    "cospgd": Attack(
        _PGD,
        "PGD weighted by the cosine of prediction and truth",
        arguments={"objective": "cospgd"},
        tasks=SEGMENTATION,
        **_OF_AN_ASCENT,
    ),
    "apgd": Attack(
        "lrsegformer.attacks.scale_free_apgd:scale_free_apgd",
        "PGD whose step adapts, on objectives that the scale of logits cannot flatten",
        stronger=True,
        **_OF_AN_ASCENT,
    ),
    "sea": Attack(
        "lrsegformer.attacks.sea:sea",
        "three objectives by APGD with 300 steps each, the worst of them for each image",
        takes=("steps", "seed", "image_ids"),
        tasks=SEGMENTATION,
        steps=300,
    ),
    "autoattack": Attack(
        "lrsegformer.attacks.packages.autoattack:auto_attack",
        "AutoAttack standard, through pyautoattack",
        takes=("seed",),
        tasks=CLASSIFICATION,
        norms=("linf", "l2"),
        package="pyautoattack",
        hangs_on_batch=True,
        flags="lrsegformer.attacks.packages.autoattack:square_flags",
    ),
    "square": Attack(
        "lrsegformer.attacks.packages.square:square",
        "AutoAttack's black box, 5000 queries",
        takes=("steps", "seed"),
        tasks=CLASSIFICATION,
        norms=("linf", "l2"),
        steps=5000,
        own_steps=True,
        package="pyautoattack",
        hangs_on_batch=True,
        stronger=True,
    ),
    "fmn": Attack(
        "lrsegformer.attacks.packages.fmn:fmn",
        "smallest l2 perturbations, through foolbox: one run of 200 steps for all radii",
        takes=("steps",),
        tasks=CLASSIFICATION,
        norms=("l2",),
        steps=200,
        own_steps=True,
        package="foolbox",
        finds_radius=True,
    ),
    "alma_prox": Attack(
        "lrsegformer.attacks.packages.alma_prox:alma_prox",
        "smallest linf perturbations that change nearly all pixels, through adv-lib (extra `alma`): one run of 500 "
        "steps for all radii",
        takes=("steps",),
        tasks=SEGMENTATION,
        norms=("linf",),
        steps=500,
        package="adv_lib.attacks.segmentation",
        hangs_on_batch=True,
        finds_radius=True,
    ),
}


def at_home(home: str) -> Callable[..., Any]:
    """The function that a row names by `"module:function"`."""
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)


def names_where(condition: Callable[[Attack], bool]) -> list[str]:
    """The attacks of which this is true, in the order of the table."""
    return [name for name, attack in ATTACKS.items() if condition(attack)]


def what_attacks_do() -> str:
    """Every attack and what it does, for `--help`, in which argparse takes a percent sign for a place to fill in."""
    return "; ".join(f"{name}: {attack.what}" for name, attack in ATTACKS.items()).replace("%", "%%")


def followers(option: str) -> str:
    """The attacks that follow `--steps`, `--restarts` or `--targeted`, for `--help`; those of steps with defaults."""
    names = names_where(lambda attack: attack.follows(option))
    if option != "steps":
        return ", ".join(names)
    defaults = dict.fromkeys(ATTACKS[name].steps for name in names)
    groups = {steps: [name for name in names if ATTACKS[name].steps == steps] for steps in defaults}
    return ", ".join(f"{', '.join(group)} ({steps})" for steps, group in groups.items())
