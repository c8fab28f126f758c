"""The attacks of the bench and what may be said of each. Light on purpose: option parsing imports it."""

from dataclasses import dataclass
from typing import Any

from lrsegformer.choices import TASKS

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Attack:
    """
    What the options may say of an attack.

    Attributes:
        what (`str`): for `--help`.
        tasks, norms (`tuple[str, ...]`): those that it has.
        steps (`int`, *optional*): by default; queries of a black box; `None` where there is no such number.
        takes_steps, takes_restarts, takes_targets (`bool`): whether it follows `--steps`, `--restarts`, `--targeted`.
        hangs_on_batch (`bool`): whether what it finds hangs on `--batch_size`, as where its random numbers are drawn
            for a batch.
        finds_radius (`bool`): whether it looks for the smallest perturbation, so that one run serves all radii.
    """

    what: str
    tasks: tuple[str, ...] = TASKS
    norms: tuple[str, ...] = NORMS
    steps: int | None = None
    takes_steps: bool = False
    takes_restarts: bool = False
    takes_targets: bool = False
    hangs_on_batch: bool = False
    finds_radius: bool = False


def _by_gradient(what: str, **options: Any) -> Attack:
    return Attack(what, **{"steps": 20, "takes_restarts": True, "takes_targets": True, **options}, takes_steps=True)


ATTACKS = {
    "fgsm": Attack("one full step on the cross-entropy", takes_targets=True),
    "pgd": _by_gradient("projected gradient on the cross-entropy"),
    "segpgd": _by_gradient("PGD whose weight moves from right to wrong pixels", tasks=TASKS[:1]),
    "cospgd": _by_gradient("PGD weighted by the cosine of prediction and truth", tasks=TASKS[:1]),
    "apgd": _by_gradient("PGD whose step adapts, on objectives that the scale of logits cannot flatten"),
    "sea": _by_gradient(
        "three objectives by APGD with 300 steps each, the worst of them for each image",
        tasks=TASKS[:1],
        steps=300,
        takes_restarts=False,
        takes_targets=False,
    ),
    "autoattack": Attack("AutoAttack standard, through pyautoattack", tasks=TASKS[1:], hangs_on_batch=True),
    "square": Attack("AutoAttack's black box, 5000 queries", tasks=TASKS[1:], steps=5000, hangs_on_batch=True),
    "fmn": Attack(
        "smallest l2 perturbations, through foolbox: one run of 200 steps for all radii",
        tasks=TASKS[1:],
        norms=NORMS[1:],
        steps=200,
        finds_radius=True,
    ),
    "alma_prox": Attack(
        "smallest linf perturbations that change nearly all pixels, through adv-lib (extra `alma`): one run of 500 "
        "steps for all radii",
        tasks=TASKS[:1],
        norms=NORMS[:1],
        steps=500,
        takes_steps=True,
        hangs_on_batch=True,
        finds_radius=True,
    ),
}
