"""One pass of a loaded model, before anything is made of it."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from lrsegformer.data.arguments import SMALLEST_INPUT
from lrsegformer.errors import InputError, NotFiniteError, reason_of


@torch.no_grad()
def refuse_what_cannot_run(model: PreTrainedModel, said: str) -> None:
    """
    Refuse a model that cannot take the smallest image that commands hand on: a blank one, twice as wide as high.

    Weights and configuration may fit each other and still make no network: strides say nothing about the weights, and
    grow or shrink the maps that the kernels behind them take.

    Args:
        model: loaded; its mode is kept.
        said (`str`): the model as the command line names it.

    Raises:
        [`~lrsegformer.errors.InputError`]: naming config.json and why the pass failed.
        [`~lrsegformer.errors.NotFiniteError`]: its logits are not finite, although its weights are.
    """
    height, width = SMALLEST_INPUT, 2 * SMALLEST_INPUT
    image = torch.zeros(1, model.config.num_channels, height, width, device=model.device, dtype=model.dtype)
    was_training = model.training
    try:
        logits = model.eval()(pixel_values=image, return_dict=True).logits
    except InputError:
        raise
    except Exception as error:  # Whatever layers say to sizes that they were not made for.
        raise InputError(
            f"{said} cannot take an image of {width}x{height} ({reason_of(error)}): its config.json is not of its "
            "weights; give the folder of a finished run, or save the model again."
        ) from None
    finally:
        model.train(was_training)
    if not logits.isfinite().all():
        raise NotFiniteError(
            f"{said} has weights with which its logits overflow, those of a blank image among them: give an earlier "
            "checkpoint."
        )
