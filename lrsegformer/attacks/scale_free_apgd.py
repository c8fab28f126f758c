"""Auto-PGD on objectives that the scale of the logits cannot flatten: what reports call apgd."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.base import AttackResult
from lrsegformer.attacks.objectives.table import FEWEST_CLASSES, FEWEST_CLASSES_TARGETED
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat


@torch.no_grad()
def scale_free_apgd(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    targeted: bool = False,
    image_ids: Sequence[Hashable] | None = None,
) -> AttackResult:
    """
    [`apgd`] on objectives that do not change with the scale of the logits.

    In segmentation that is the tempered Jensen-Shannon divergence. In classification the cross entropy comes first,
    and then, on the images that it left, the difference of logits ratio, where the model has classes enough for it
    (three, and four where targeted).

    Args:
        model ([`PixelModel`]), images, labels, threat, steps, restarts, seed, targeted, image_ids: as for [`apgd`].

    Returns:
        [`AttackResult`]: inside the ball and the box to 1e-6; without `values`, which would be of two objectives.

    Raises:
        [`~lrsegformer.errors.InputError`]: as [`apgd`].
    """
    image_ids = range(len(images)) if image_ids is None else image_ids
    fewest = FEWEST_CLASSES_TARGETED if targeted else FEWEST_CLASSES
    by_ratio = ("dlr",) if model.num_labels >= fewest else ()
    attacked, rows = images.clone(), torch.arange(len(images), device=images.device)
    accuracy = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    for objective in ("tempered_jensen_shannon",) if labels.ndim == 3 else ("cross_entropy", *by_ratio):
        if len(rows) == 0:
            break
        found = apgd(
            model,
            images[rows],
            labels[rows],
            threat,
            steps,
            objective,
            restarts=restarts,
            seed=seed,
            targeted=targeted,
            image_ids=[image_ids[row] for row in rows.tolist()],
        )
        attacked[rows], accuracy[rows] = found.images, found.accuracy
        rows = rows[found.accuracy != float(targeted)]
    return AttackResult(attacked, accuracy)
