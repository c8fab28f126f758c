"""What targeted attacks aim at."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from lrsegformer.attacks.objectives.pixels import counted_pixels
from lrsegformer.attacks.threat import image_generator


def target_labels(labels: Tensor, image_ids: Sequence[Hashable], num_labels: int, seed: int) -> Tensor:
    """
    A class for each image to be attacked towards, drawn from the classes that are not its commonest one.

    In segmentation the whole map has that class; pixels that do not count stay as they are.

    Args:
        labels (`torch.Tensor`): the true `(batch,)` classes or `(batch, label_height, label_width)` maps.
        image_ids (sequence): what names the images in their data set, from which the draws are seeded.
        num_labels (`int`): number of classes of the model.
        seed (`int`): of the run.
    """
    targets = labels.clone()
    for row, image_id in enumerate(image_ids):
        counts = labels[row] >= 0 if labels.ndim == 1 else counted_pixels(labels[row], num_labels)
        counted = labels[row][counts]
        commonest = int(torch.bincount(counted.flatten()).argmax()) if counted.numel() else 0
        generator = image_generator(seed, ("target", image_id))
        drawn = int(torch.randint(num_labels - 1, (), generator=generator))
        target = drawn + (drawn >= commonest)
        if labels.ndim == 1:
            targets[row] = target
        else:
            targets[row][counts] = target
    return targets
