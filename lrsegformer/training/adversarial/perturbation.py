"""Adversarial training: projected gradient ascent on a loss, on the batch that training is about to see."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lrsegformer.choices import ADVERSARIAL_LOSSES, TRADES_BETA
from lrsegformer.data.processor import normalisation
from lrsegformer.errors import InputError
from lrsegformer.models.eval_mode import eval_mode
from lrsegformer.models.jacobian import sample_seeds

# A single step overshoots the radius by this factor, and several together by the other, before they are projected:
# Wong, Rice and Kolter 2020 (arXiv 2001.03994), algorithm 3; Madry et al. 2018 (arXiv 1706.06083).
SINGLE_STEP_LENGTH = 1.25
SUMMED_STEP_LENGTH = 2.5
# The divergence of two predictions is 0, and flat, at equal images. So the attack on it begins beside them, in pixels
# of [0, 1]: Zhang et al. 2019 (arXiv 1901.08573), algorithm 1, draws normal numbers of that deviation.
TRADES_START = 1e-3


def check_adversarial(steps: int, eps: float, loss: str = "cross_entropy", trades_beta: float = TRADES_BETA) -> None:
    """
    Refuse options of adversarial training that contradict each other.

    Raises:
        [`~lrsegformer.errors.InputError`]: negative or not a number, one set without the others, or an unknown loss.
    """
    if loss not in ADVERSARIAL_LOSSES:
        raise InputError(f"--adversarial_loss is {loss}: give {' or '.join(ADVERSARIAL_LOSSES)}.")
    if steps < 0:
        raise InputError(f"--adversarial_steps is {steps}: give 0 (off) or a positive number of steps.")
    if not 0 <= eps < math.inf:
        raise InputError(f"--adversarial_eps is {eps}: give 0 (off) or a positive radius in 1/255.")
    if eps > 0 and steps == 0:
        raise InputError(f"--adversarial_eps is {eps} but --adversarial_steps is 0: give both, or neither.")
    if steps > 0 and eps == 0:
        raise InputError(f"--adversarial_steps is {steps} but --adversarial_eps is 0: give both, or neither.")
    if loss == "trades" and steps == 0:
        raise InputError("--adversarial_loss trades needs an attack: give --adversarial_steps and --adversarial_eps.")
    if loss != "trades" and trades_beta != TRADES_BETA:
        raise InputError(f"--trades_beta is {trades_beta} but --adversarial_loss is {loss}: give trades, or no beta.")


class AdversarialTraining:
    """
    The perturbation of training batches within an linf ball, and what it costs.

    Random start in the ball, then `steps` steps along the sign of the gradient of a loss, each projected to the ball
    and to the pixels' range: one step of 1.25 eps (Wong, Rice and Kolter 2020, algorithm 3), or several of 2.5 eps /
    steps (Madry et al. 2018). The radius is in pixels of [0, 1], whatever the normalisation.

    The model attacked is the one that is deployed: eval mode, so that no dropout is drawn and no running statistic
    moves. No gradient of a parameter is formed. The random start of a sample depends on its own pixels and the step of
    training alone, and so does the sign of its gradient: up to the rounding of gradients that are next to 0, the
    result does not depend on how a batch is split. torch's random state is left as it was.

    Args:
        steps (`int`): positive; each costs a forward and a backward pass (`"trades"`: another forward pass for all).
        eps (`float`): radius in 1/255.
        mean, std (`Sequence[float]`): what the images were normalised with, a number a channel, on a scale of 0 to 1.
        loss (`str`, *optional*, defaults to `"cross_entropy"`): with `"trades"` the start lies within 0.001.
    """

    def __init__(
        self, steps: int, eps: float, mean: Sequence[float], std: Sequence[float], loss: str = "cross_entropy"
    ):
        check_adversarial(steps, eps, loss)
        self.is_consistency = loss == "trades"
        self.steps = steps
        self.radius = eps / 255
        self.step_length = self.radius * (SINGLE_STEP_LENGTH if steps == 1 else SUMMED_STEP_LENGTH / steps)
        self.start = min(self.radius, TRADES_START) if self.is_consistency else self.radius
        self.mean, self.std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
        self._passes, self._seconds = 0, 0.0

    def perturb(
        self,
        model: torch.nn.Module,
        pixel_values: torch.Tensor,
        task_loss: Callable[[torch.Tensor], torch.Tensor],
        training_step: int,
        loss_scale: float = 1.0,
    ) -> torch.Tensor:
        """
        Perturb a normalised batch.

        Args:
            model (`torch.nn.Module`): in eval mode while `task_loss` runs; then every module is as it was.
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): floating point, normalised.
            task_loss (`Callable`): from images such as those to the loss, a scalar.
            training_step (`int`): of the optimizer; another one draws other random starts.
            loss_scale (`float`, *optional*, defaults to 1.0):
                Factor of the loss, which keeps float16 gradients from vanishing; only their signs are used.

        Returns:
            `torch.Tensor`: like `pixel_values`, detached. No pixel is further from its value than eps, and none leaves
            [0, 1] (one that was outside stays on its side of its own value).
        """
        started = self._now(pixel_values.device)
        clean = pixel_values.detach()
        lower, upper = self._bounds(clean)
        step = (self.step_length / self.std).to(clean)
        start = (self.start / self.std).to(clean) * uniform_noise(clean, training_step)
        images = torch.minimum(torch.maximum(clean + start, lower), upper)
        with eval_mode(model), torch.enable_grad():
            for _ in range(self.steps):
                images.requires_grad_()
                (gradient,) = torch.autograd.grad(task_loss(images) * loss_scale, images)
                # A batch without a valid label has no direction, which a stock model says by NaN.
                direction = gradient.nan_to_num().sign()
                images = torch.minimum(torch.maximum(images.detach() + step * direction, lower), upper)
        self._passes += self.steps
        self._seconds += self._now(pixel_values.device) - started
        return images

    def cost(self, training_steps: int) -> dict[str, float]:
        """
        What the attack added to each of these many optimizer steps since the last call, for the log: pairs of forward
        and backward passes, and seconds, of this process.
        """
        parts = {
            "adversarial/passes": self._passes / training_steps,
            "adversarial/seconds": self._seconds / training_steps,
        }
        self._passes, self._seconds = 0, 0.0
        return parts

    def state(self) -> dict[str, float]:
        """What [`cost`] has summed up, for a run that goes on later."""
        return {"passes": self._passes, "seconds": self._seconds}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a [`state`]."""
        self._passes, self._seconds = state["passes"], state["seconds"]

    def _bounds(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The ball within the pixels' range, normalised. A clean value past the range is a bound itself."""
        lowest, highest = (((limit - self.mean) / self.std).to(clean) for limit in (0.0, 1.0))
        radius = (self.radius / self.std).to(clean)
        lower = torch.maximum(clean - radius, torch.minimum(lowest, clean))
        return lower, torch.minimum(clean + radius, torch.maximum(highest, clean))

    @staticmethod
    def _now(device: torch.device) -> float:
        # Two waits for the device beside whole passes: the cost in the log is that of the work, not of its launch.
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()


def uniform_noise(pixel_values: torch.Tensor, training_step: int) -> torch.Tensor:
    """Numbers in [-1, 1) of the shape of `pixel_values`, each sample's from its own pixels and the training step."""
    noise = torch.empty_like(pixel_values)
    for sample, seed in zip(noise, sample_seeds(pixel_values).tolist(), strict=True):
        generator = torch.Generator(device=pixel_values.device).manual_seed(_mixed(seed, training_step))
        sample.uniform_(-1, 1, generator=generator)
    return noise


def _mixed(seed: int, training_step: int) -> int:
    # Sums of pixels' bits lie close together: a large odd factor keeps (seed, step) and (seed + 1, step - 1) apart.
    return (seed + training_step * 0x9E3779B97F4A7C15) % 2**63


def pixel_statistics(processor: Any, dataset: Any) -> tuple[list[float], list[float]]:
    """
    Mean and deviation of each channel that training images are normalised with.

    Args:
        processor: the Trainer's `processing_class`; an image processor of transformers says it.
        dataset: the training data; in its absence the normalisation of an [`~lrsegformer.data.dataset.ImageDataset`].

    Raises:
        [`~lrsegformer.errors.InputError`]: neither of the two says it.
    """
    processor = getattr(processor, "image_processor", processor)
    if hasattr(processor, "image_mean"):
        return normalisation(processor)
    normalise = getattr(getattr(dataset, "transform", None), "normalise", None)
    if normalise is None:
        raise InputError(
            "--adversarial_steps needs the mean and std of the images' normalisation: give the Trainer the image "
            "processor as processing_class."
        )
    std = 1 / (255 * normalise.factor.astype("float64").flatten())
    return (normalise.shift.flatten() * std).tolist(), std.tolist()
