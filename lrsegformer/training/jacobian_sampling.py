"""On which images of an optimizer step the penalty on the network's Jacobian is measured."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lrsegformer.choices import JACOBIAN_SHARE
from lrsegformer.errors import InputError
from lrsegformer.models.jacobian import sample_seeds, seeds_of_step

# What fills up the seeds of processes with fewer images; no hash of an image comes to it but once in 2^64.
_NO_IMAGE = torch.iinfo(torch.int64).max


class JacobianSampling:
    """
    Draws a share of the images of each optimizer step, and the directions of their estimates.

    Of n images, each step takes the whole part of n times the share, and now and then one more, so that the share
    holds on average: with one image and a share of 1/4, every fourth step. Each image is as likely as any other, and
    its estimate is divided by the share, so that the penalty is on average that of all images.

    The draw is a hash of the image's pixels and of the step: it does not depend on how the step's batch is divided
    over accumulation steps and processes, and a run that is continued draws what it would have drawn.

    Args:
        share (`float`): above 0, at most 1.
        gather (`Callable`): from a tensor of a process to those of all processes, one after the other; of any lengths,
            with the value that fills them up.
    """

    def __init__(self, share: float, gather: Callable[[torch.Tensor, int], torch.Tensor]):
        self.share = share
        self._gather = gather

    def add_to(self, batches: list[dict[str, Any]], step: int, device: torch.device) -> list[dict[str, Any]]:
        """
        The batches of optimizer step `step`, counted from 0, with `jacobian_seeds` and `jacobian_weights`.

        Args:
            batches: those of this process.
            device (`torch.device`): that processes exchange tensors on.
        """
        if not batches:
            return batches
        seeds = [seeds_of_step(sample_seeds(batch["pixel_values"]), step) for batch in batches]
        # Ranks by another hash than the one that the directions come from.
        ranks = [seeds_of_step(each, -2) for each in seeds]
        weights = self._weights(ranks, step, device)
        return [
            {**batch, "jacobian_seeds": seed, "jacobian_weights": weight}
            for batch, seed, weight in zip(batches, seeds, weights, strict=True)
        ]

    def _weights(self, ranks: list[torch.Tensor], step: int, device: torch.device) -> list[torch.Tensor]:
        everywhere = self._gather(torch.cat([each.to(device) for each in ranks]), _NO_IMAGE)
        ordered = everywhere[everywhere != _NO_IMAGE].sort().values
        count = math.floor((step + 1) * len(ordered) * self.share) - math.floor(step * len(ordered) * self.share)
        if count == 0:
            return [torch.zeros(len(each)) for each in ranks]
        last = ordered[count - 1].item()
        # Equal images are drawn together.
        weight = count / (self.share * int((ordered <= last).sum()))
        return [(each <= last).float() * weight for each in ranks]


def jacobian_sampling(
    model: nn.Module, share: float | None, gather: Callable[[torch.Tensor, int], torch.Tensor], sharded: bool = False
) -> JacobianSampling | None:
    """
    The sampling for a model that penalises its network's Jacobian; `None` for any other.

    Args:
        model: any model.
        share (`float`, *optional*): of the images; `None` for the default.
        gather: as [`JacobianSampling`] takes it.
        sharded (`bool`, *optional*): whether the processes share the parameters, and so each forward pass.

    Raises:
        [`~lrsegformer.errors.InputError`]: a share for a model with another penalty, or a sharded model with this one:
            a process without a drawn image would leave the others waiting.
    """
    penalizes = getattr(model, "penalizes_network_jacobian", None)
    if penalizes is not None and penalizes():
        if sharded:
            raise InputError(
                "The penalty on the network's Jacobian needs a whole model on each device: leave out FSDP and "
                "DeepSpeed, or penalise the head's, the default of --strategy jacobian_norm."
            )
        return JacobianSampling(JACOBIAN_SHARE if share is None else share, gather)
    if share is not None:
        raise InputError(
            f"--jacobian_share {share:g} is of the penalty on the network's Jacobian, and this model has none: add "
            '--strategy jacobian_norm --lipschitz_options \'{"jacobian": "network"}\', or leave it out.'
        )
    return None
