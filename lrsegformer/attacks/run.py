"""Any attack of the registry by its name, each called in the same way."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from torch import Tensor

from lrsegformer.attacks.base import AttackResult
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.registry import ATTACKS, at_home
from lrsegformer.attacks.targets import target_labels
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError


def run_attack(
    name: str,
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    steps: int | None = None,
    restarts: int = 1,
    seed: int = 0,
    targeted: bool = False,
    image_ids: Sequence[Hashable] | None = None,
) -> AttackResult:
    """
    Run an attack by its name.

    Args:
        name (`str`): a row of `ATTACKS`.
        model ([`PixelModel`]): on the device of the images.
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): clean images in [0, 1].
        labels (`torch.Tensor`): true `(batch,)` classes, or `(batch, label_height, label_width)` maps.
        threat ([`Threat`]): the ball. For an attack that looks for the smallest perturbation
            [`Threat.unlimited`] leaves it the whole box.
        steps (`int`, *optional*): by default as many as the row says.
        restarts (`int`): random starts.
        seed (`int`): of random starts and of targets.
        targeted (`bool`): attack each image towards a class that [`target_labels`] draws; the result has them.
        image_ids (sequence, *optional*): what names the images in their data set, from which draws are seeded; by
            default the positions in this batch.

    Raises:
        [`~lrsegformer.errors.InputError`]: an unknown name, an option that the attack does not take, or what the
            attack itself refuses.
    """
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}: the attacks are {', '.join(ATTACKS)}.")
    attack = ATTACKS[name]
    image_ids = range(len(images)) if image_ids is None else image_ids
    steps = attack.steps if steps is None else steps
    options = {"steps": steps, "restarts": restarts, "seed": seed, "targeted": targeted, "image_ids": image_ids}
    given = {"steps": steps is not None, "restarts": restarts > 1, "targeted": targeted}
    for option in [option for option, is_given in given.items() if is_given and option not in attack.takes]:
        raise InputError(f"the attack {name} has no option {option}: leave it out.")
    targets = target_labels(labels, image_ids, model.num_labels, seed) if targeted else None
    options = {option: options[option] for option in attack.takes}
    found = at_home(attack.home)(
        model, images, labels if targets is None else targets, threat, **attack.arguments, **options
    )
    return found if targets is None else replace(found, targets=targets)
