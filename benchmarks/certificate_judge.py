"""
A judge of certificates: attacks that try to flip pixels within their certified radius, and how many of them flip.

A pixel whose class is `a` is certified at a radius `r` where its distance, the least over the other classes `b` of
`(z_a - z_b) / |w_a - w_b|`, is above `K r`. The judge computes distances by itself, from the logits, the classifier's
rows and the constant K alone. It looks at every image that an attack asks the model about, not only at the one that
the attack returns, so what counts is any pixel that flips in any step of any restart.

Distances fall by at most `K |d|` for a perturbation `d`, whether or not a pixel flips. The largest share of that which
an attack used up is reported, too: above 1 the constant is none, and far below 1 the attack, or the constant, is weak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.objectives.pixels import ValuesAlone
from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.threat import Threat
from lrsegformer.certification.calculus import Constants

# Does not count for any number of classes, as 255 does above 255 of them.
IGNORED = -1
# Certified pixels that the attack on the nearest ones pushes at once.
NEAREST = 64

Size = tuple[int, int]


def constant_of(constants: Constants, norm: str, channels: int = 3) -> float:
    """
    By how much the features of any pixel move, in l2, for a perturbation of length 1 in the norm of a threat.

    The linf ball of radius r lies in the per-pixel ball of radius `sqrt(channels) r`.
    """
    per_pixel = float(constants.per_pixel_to_per_pixel)
    found = {
        "l2": float(constants.l2_to_per_pixel),
        "per_pixel_l2": per_pixel,
        "linf": channels**0.5 * per_pixel,
    }
    return found[norm]


def inverse_row_distances(rows: Tensor) -> Tensor:
    """
    `1 / |w_a - w_b|` of classifier rows `(num_labels, width)`, in float64.

    1 on the diagonal, and 1e30 instead of infinity where rows coincide, so that gradients stay numbers.
    """
    differences = rows.double()[:, None] - rows.double()[None]
    return torch.linalg.vector_norm(differences, dim=2).reciprocal().clamp_max(1e30).fill_diagonal_(1.0)


def distances_to_other_classes(maps: Tensor, classes: Tensor, inverse: Tensor) -> Tensor:
    """
    How far features are, in l2, from where another class than the given one wins: negative where one does.

    Args:
        maps (`torch.Tensor` of shape `(batch, num_labels, height, width)`): logits.
        classes (`torch.Tensor` of shape `(batch, height, width)`): int64.
        inverse (`torch.Tensor`): of [`inverse_row_distances`], in the dtype of the logits.
    """
    own = classes[:, None]
    factors = inverse[classes].movedim(-1, 1)
    return ((maps.gather(1, own) - maps) * factors).scatter(1, own, torch.inf).amin(dim=1)


@dataclass(frozen=True)
class NearestPixels(ValuesAlone):
    """
    An attack objective: minus the sum of the distances of the counted pixels that are nearest to another class.

    Pixels are chosen anew in every step, so that a pixel that cannot be moved makes room for the next. For labels that
    are the predictions of the clean image; a label below 0 does not count.
    """

    inverse: Tensor
    count: int
    name: str = "nearest_pixels"

    def values_and_right(
        self, logits: Tensor, labels: Tensor, step: int = 1, steps: int = 1, targeted: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The values `(batch,)`, and the numbers of counted pixels that still have their class."""
        labels = labels if labels.ndim == 3 else labels[:, None, None]
        maps, counted = _upsampled(logits, labels.shape[1:]), labels >= 0
        distances = distances_to_other_classes(maps, labels.clamp_min(0), self.inverse.to(maps.dtype))
        chosen = distances.masked_fill(~counted, torch.inf).flatten(1)
        nearest = chosen.topk(min(self.count, chosen.shape[1]), largest=False).values
        values = -torch.where(nearest.isfinite(), nearest, 0.0).sum(dim=1)
        return values, ((distances > 0) & counted).flatten(1).sum(dim=1)


class Watch(nn.Module):
    """
    A model of images in [0, 1] that judges everything it is asked about.

    Args:
        model (`torch.nn.Module`): to logits; in eval mode.
        clean (`torch.Tensor` of shape `(1, channels, height, width)`): the image whose predictions are certified.
        size (`tuple[int, int]`): to which logits are upsampled; of no meaning for logits of images.
        threat ([`Threat`]): the ball in which a prediction must stay.
        constant (`float`): of the features, for a perturbation of length 1 in the norm of the threat.
        rows (`torch.Tensor` of shape `(num_labels, width)`): of the classifier.
    """

    def __init__(
        self, model: nn.Module, clean: Tensor, size: Size, threat: Threat, constant: float, rows: Tensor
    ) -> None:
        super().__init__()
        self.model, self.clean, self.size, self.threat, self.constant = model, clean, size, threat, constant
        inverse = inverse_row_distances(rows).to(clean.device)
        with torch.no_grad():
            logits = model(clean).double()
        self.is_of_pixels = logits.ndim == 4
        maps = _upsampled(logits, size)
        self.classes = maps.argmax(dim=1)
        self.distances = distances_to_other_classes(maps, self.classes, inverse)
        self.radii = self.distances / constant
        self.certified = self.radii > threat.radius
        self.inverse = inverse.to(clean.dtype)
        self.flipped = torch.zeros_like(self.certified)
        self.least_left, self.bound_used, self.iterates = torch.inf, 0.0, 0

    def labels(self, which: Tensor | None = None) -> Tensor:
        """What is predicted where pixels are certified (or where `which` says), for an attack to turn."""
        labels = torch.where(self.certified if which is None else which, self.classes, IGNORED)
        return labels if self.is_of_pixels else labels[:, 0, 0]

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        with torch.no_grad():
            self._judge(images.detach(), logits.detach())
        return logits

    def _judge(self, images: Tensor, logits: Tensor) -> None:
        self.threat.verify(images, self.clean)
        maps = _upsampled(logits, self.size)
        now = distances_to_other_classes(maps, self.classes, self.inverse.to(maps.dtype)).double()
        # Not "below 0": a tie, or a logit that is no number, is a lost prediction, too.
        self.flipped |= self.certified & ~(now > 0)
        self.iterates += 1
        self.least_left = min(self.least_left, float((now / self.distances)[self.certified].min()))
        moved = float(self.threat.distance(images, self.clean)) * self.constant
        if moved > 0:
            fallen = (self.distances - now)[self.distances.isfinite()]
            self.bound_used = max(self.bound_used, float(fallen.max()) / moved if fallen.numel() else 0.0)


@dataclass(frozen=True)
class Verdict:
    """
    What an attack found.

    Attributes:
        images, judged_pixels, flipped_pixels (`int`): images with a certified pixel; their certified pixels; those of
            them that flipped. Each pixel counts once, however often the attack tried.
        iterates (`int`): images that were looked at.
        least_margin_left (`float`): the smallest share of its clean distance that a certified pixel had left.
        largest_bound_used (`float`): the largest share of `K |d|` by which the distance of any pixel fell.
    """

    images: int = 0
    judged_pixels: int = 0
    flipped_pixels: int = 0
    iterates: int = 0
    least_margin_left: float = torch.inf
    largest_bound_used: float = 0.0

    def __add__(self, other: Verdict) -> Verdict:
        sums = [mine + theirs for mine, theirs in zip(self._counts(), other._counts(), strict=True)]
        least = min(self.least_margin_left, other.least_margin_left)
        return Verdict(*sums, least, max(self.largest_bound_used, other.largest_bound_used))

    def _counts(self) -> tuple[int, ...]:
        return self.images, self.judged_pixels, self.flipped_pixels, self.iterates

    def to_json(self) -> dict[str, Any]:
        """Its attributes; where no pixel was certified the share that was left is `None`."""
        return asdict(self) | {"least_margin_left": self.least_margin_left if self.judged_pixels else None}


def _with(ascent: Callable, objective: Callable[[Watch], Any]) -> Callable[..., None]:
    def attack(watch: Watch, **options: Any) -> None:
        ascent(watch, watch.clean, watch.labels(), watch.threat, objective=objective(watch), **options)

    return attack


def _one_pixel(watch: Watch, restarts: int, **options: Any) -> None:
    """Each restart pushes one pixel alone, the first that with the smallest certified radius."""
    radii = watch.radii.masked_fill(~watch.certified, torch.inf).flatten()
    for index in radii.argsort()[: min(restarts, int(watch.certified.sum()))].tolist():
        only = torch.zeros_like(watch.certified)
        only.view(-1)[index] = True
        objective = NearestPixels(watch.inverse, 1, "one_pixel")
        apgd(watch, watch.clean, watch.labels(only), watch.threat, objective=objective, **options)


# Each takes the watched model and `steps`, `restarts`, `seed` and `image_ids`.
ATTACKS: Mapping[str, Callable[..., None]] = {
    "pgd": _with(pgd, lambda watch: "cross_entropy"),
    "cospgd": _with(pgd, lambda watch: "cospgd"),
    "apgd": _with(apgd, lambda watch: "tempered_jensen_shannon"),
    "nearest": _with(apgd, lambda watch: NearestPixels(watch.inverse, NEAREST)),
    "one_pixel": _one_pixel,
}


def judge(
    model: nn.Module,
    image: Tensor,
    size: Size,
    threat: Threat,
    constant: float,
    rows: Tensor,
    attack: str,
    steps: int = 100,
    restarts: int = 5,
    seed: int = 0,
    image_id: int = 0,
) -> Verdict:
    """
    Try to flip the certified pixels of one image.

    Args:
        attack (`str`): one of `ATTACKS`.
        steps (`int`), restarts (`int`), seed (`int`), image_id (`int`): as for [`pgd`].
        model, image, size, threat, constant, rows: as for [`Watch`], `image` for its `clean`.

    Returns:
        [`Verdict`]: where no pixel is certified at the radius, that of nothing.
    """
    watch = Watch(model, image, size, threat, constant, rows)
    judged = int(watch.certified.sum())
    if judged == 0:
        return Verdict()
    ATTACKS[attack](watch, steps=steps, restarts=restarts, seed=seed, image_ids=[image_id])
    return Verdict(1, judged, int(watch.flipped.sum()), watch.iterates, watch.least_left, watch.bound_used)


def _upsampled(logits: Tensor, size: Size) -> Tensor:
    if logits.ndim == 2:
        return logits[:, :, None, None]
    return functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)
