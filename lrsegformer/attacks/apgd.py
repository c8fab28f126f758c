"""Auto-PGD: projected ascent with momentum whose step is halved where progress stalls."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from lrsegformer.attacks.base import (
    AttackResult,
    BestIterates,
    check_attack,
    check_finite,
    check_labels,
    random_starts,
)
from lrsegformer.attacks.objectives.pixels import jensen_shannon
from lrsegformer.attacks.objectives.table import Objective, find_objective
from lrsegformer.attacks.threat import Threat

MOMENTUM = 0.75
# A step that raised the objective less often than this since the last checkpoint is too long.
LEAST_SHARE_OF_RISES = 0.75
# Percent of the steps: the first checkpoint, by how much later intervals are shorter, and the shortest of them.
FIRST_CHECKPOINT, SHORTENING, SHORTEST_INTERVAL = 22, 3, 6
# Masked objectives fall with every pixel that is won: progress is measured without the mask.
MASKED = ("masked_cross_entropy", "balanced_masked_cross_entropy")

# Radii, in radii of the threat, and shares of the steps.
RadiusSchedule = Sequence[tuple[float, float]]
CONSTANT_RADIUS: RadiusSchedule = ((1.0, 1.0),)


@torch.no_grad()
def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    steps: int,
    objective: Objective | str = "cross_entropy",
    restarts: int = 1,
    seed: int = 0,
    targeted: bool = False,
    radius_schedule: RadiusSchedule = CONSTANT_RADIUS,
    image_ids: Sequence[Hashable] | None = None,
) -> AttackResult:
    """
    Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1), image by image.

    The first step is two radii long. At checkpoints that come closer and closer, an image's step is halved, and its
    ascent goes on from its best point, where (1) the objective rose in less than 75 % of the steps since the last
    checkpoint, or (2) neither the step nor the best value has changed since then. Progress on the two masked
    objectives is measured by `jensen_shannon`, which does not fall when a pixel is won; their gradients are their own.

    The clean image is always a candidate and the best candidate is kept, so no image's accuracy rises. An image is
    left alone as soon as every counted pixel is won inside the threat.

    Args:
        model (`torch.nn.Module`): from images in [0, 1] to logits, such as [`PixelModel`]; in eval mode.
        images (`torch.Tensor` of shape `(batch, channels, height, width)`): clean images in [0, 1].
        labels (`torch.Tensor`): `(batch,)` classes, or `(batch, label_height, label_width)` maps in which negative
            values and, up to 255 classes, 255 do not count. Where targeted, the classes to be predicted.
        threat ([`Threat`]): the ball.
        steps (`int`): gradient steps of a run; one takes one forward and one backward pass.
        objective (a value of `OBJECTIVES` or its name, *optional*): what is maximised.
        restarts (`int`), seed (`int`), targeted (`bool`), image_ids (sequence, *optional*): as for [`pgd`].
        radius_schedule (sequence of pairs, *optional*):
            Radii in radii of the threat, the last 1, and their shares of the steps. Each phase is an ascent of its own
            that starts at the best point of the one before, projected to its ball (arXiv 2306.12941). The points of
            the last phase alone are candidates.

    Returns:
        [`AttackResult`]: inside the ball and the box to 1e-6, which is checked.

    Raises:
        [`~lrsegformer.errors.InputError`]: as [`pgd`], and where the model's gradient is not finite.
    """
    objective = find_objective(objective) if isinstance(objective, str) else objective
    check_attack(images, labels, steps, restarts, random_start=True, step_size=None)
    image_ids = range(len(images)) if image_ids is None else image_ids
    logits = model(images)
    check_labels(labels, logits)
    best = BestIterates(images, labels, logits.shape[1], targeted)
    ascent = _Ascent(model, images, labels, objective, targeted, best, steps)
    everything = torch.arange(len(images), device=images.device)
    ascent.best.consider(everything, images, *objective.values_and_right(logits, labels, targeted=targeted))
    for restart in range(restarts):
        rows = ascent.best.unfinished()
        if len(rows) == 0:
            break
        first = replace(threat, radius=threat.radius * radius_schedule[0][0])
        starts = random_starts(first, images[rows], [image_ids[row] for row in rows.tolist()], seed, restart)
        step = 1
        *early, last_steps = split_steps(steps, radius_schedule)
        for (factor, _), phase_steps in zip(radius_schedule, early, strict=False):
            ball = replace(threat, radius=threat.radius * factor)
            starts = ascent.run(rows, ball.project(starts, images[rows]), ball, phase_steps, step)
            step += phase_steps
        ascent.run(rows, threat.project(starts, images[rows]), threat, last_steps, step, candidates=True)
    threat.verify(ascent.best.images, images)
    return ascent.best.result()


def checkpoints(steps: int) -> list[int]:
    """After which of `steps` steps the step's length is looked at (arXiv 2003.01690)."""
    found, last, percent = [], 0, FIRST_CHECKPOINT
    while percent < 100:
        found.append(-(-percent * steps // 100))
        last, percent = percent, percent + max(percent - last - SHORTENING, SHORTEST_INTERVAL)
    return sorted(set(found))


def split_steps(steps: int, schedule: RadiusSchedule) -> list[int]:
    """The steps of each phase; what rounding leaves over goes to the last."""
    early = [int(share * steps + 1e-9) for _, share in schedule[:-1]]
    return [*early, steps - sum(early)]


@dataclass
class _State:
    """Where the images of an ascent are; every field has one entry an image."""

    rows: Tensor
    clean: Tensor
    current: Tensor
    previous: Tensor
    values: Tensor
    gradient: Tensor
    best: Tensor
    best_values: Tensor
    best_gradient: Tensor
    step_size: Tensor
    rises: Tensor
    best_values_before: Tensor
    halved_before: Tensor

    def only(self, which: Tensor) -> _State:
        return _State(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


@dataclass
class _Ascent:
    """What the phases and restarts of an attack share."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    objective: Objective
    targeted: bool
    best: BestIterates
    steps: int

    def run(
        self, rows: Tensor, starts: Tensor, ball: Threat, steps: int, first_step: int, candidates: bool = False
    ) -> Tensor:
        """
        One ascent of the images at `rows` from `starts`; with `candidates` its points count, and finished images stop.

        Returns the best point of each image that has not stopped.
        """
        state = self._start(rows, starts, ball, first_step, candidates)
        marks = checkpoints(steps)
        last_mark = 0
        for done in range(1, steps + 1):
            if candidates:
                unfinished = self.best.remaining[state.rows] > 0
                state = state if unfinished.all() else state.only(unfinished)
            if len(state.rows) == 0:
                break
            step = min(first_step + done, self.steps)
            self._move(state, ball, step, candidates, momentum=MOMENTUM if done > 1 else 1.0)
            if done in marks:
                _shorten_steps(state, done - last_mark)
                last_mark = done
        return state.best

    def _start(self, rows: Tensor, starts: Tensor, ball: Threat, step: int, candidates: bool) -> _State:
        values, gradient = self._evaluate(rows, starts, step, candidates)
        return _State(
            rows=rows,
            clean=self.images[rows],
            current=starts,
            previous=starts,
            values=values,
            gradient=gradient,
            best=starts.clone(),
            best_values=values.clone(),
            best_gradient=gradient.clone(),
            step_size=torch.full_like(values, 2 * ball.radius),
            rises=torch.zeros_like(values),
            best_values_before=values.clone(),
            # The first checkpoint has no interval before it to compare with.
            halved_before=torch.ones_like(values, dtype=torch.bool),
        )

    def _move(self, state: _State, ball: Threat, step: int, candidates: bool, momentum: float) -> None:
        length = state.step_size.to(state.current.dtype)[:, None, None, None]
        ahead = ball.project(state.current + length * ball.step(state.gradient), state.clean)
        inertia = state.current - state.previous
        moved = state.current + momentum * (ahead - state.current) + (1 - momentum) * inertia
        state.previous, state.current = state.current, ball.project(moved, state.clean)
        values, state.gradient = self._evaluate(state.rows, state.current, step, candidates)
        state.rises += values > state.values
        state.values = values
        better = values > state.best_values
        state.best[better] = state.current[better]
        state.best_gradient[better] = state.gradient[better]
        state.best_values[better] = values[better]

    def _evaluate(self, rows: Tensor, points: Tensor, step: int, candidates: bool) -> tuple[Tensor, Tensor]:
        """What progress is measured by, `(images,)` float64, and the gradient of the objective."""
        labels = self.labels[rows]
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            logits = self.model(points)
            values, right = self.objective.values_and_right(logits, labels, step, self.steps, self.targeted)
            (gradient,) = torch.autograd.grad(values.sum(), points)
        check_finite(gradient)
        if candidates:
            self.best.consider(rows, points, values, right)
        if self.objective.name in MASKED:
            values = jensen_shannon(logits.detach(), labels, targeted=self.targeted)
        return values.detach().double(), gradient


def _shorten_steps(state: _State, interval: int) -> None:
    """Conditions (1) and (2) at a checkpoint that ends an interval of so many steps."""
    oscillates = state.rises < LEAST_SHARE_OF_RISES * interval
    stalls = ~state.halved_before & (state.best_values <= state.best_values_before)
    halved = oscillates | stalls
    state.step_size[halved] /= 2
    state.current = torch.where(halved[:, None, None, None], state.best, state.current)
    state.gradient = torch.where(halved[:, None, None, None], state.best_gradient, state.gradient)
    state.halved_before, state.best_values_before = halved, state.best_values.clone()
    state.rises = torch.zeros_like(state.rises)
