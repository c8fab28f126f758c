"""Auto-PGD: its rules, and its strength beside PGD and beside pyautoattack's."""

import copy
import logging
import math

import pytest
import torch
from torch import nn

from lrsegformer.attacks.apgd import CONSTANT_RADIUS, apgd, checkpoints, split_steps
from lrsegformer.attacks.objectives.pixels import jensen_shannon
from lrsegformer.attacks.objectives.table import OBJECTIVES
from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.sea import SEA_RADII
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError, NotFiniteError

PIXEL_OBJECTIVES = tuple(name for name in OBJECTIVES if name != "dlr")
THREATS = (Threat("linf", 16 / 255), Threat("l2", 1.0), Threat("per_pixel_l2", 20 / 255))


class Watched(nn.Module):
    """Keeps every image that a model was asked about."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, []

    def forward(self, images):
        self.images.append(images.detach().clone())
        return self.model(images)


def accuracy_of(segmenter, images, labels):
    right = (segmenter.predict(images, labels.shape[1:]) == labels) & (labels != 255)
    return right.flatten(1).sum(1).double() / (labels != 255).flatten(1).sum(1)


def test_checkpoints_are_the_papers():
    # Intervals of 22, 19, 16, 13, 10, 7, 6, 6 % of the steps; shares are rounded up.
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1] and checkpoints(10)[0] == 3
    assert all(1 <= mark <= 7 for mark in checkpoints(7))


def test_phases_share_the_steps_3_3_4():
    assert split_steps(300, SEA_RADII) == [90, 90, 120]
    assert split_steps(50, SEA_RADII) == [15, 15, 20]
    assert split_steps(1, SEA_RADII) == [0, 0, 1]
    assert split_steps(7, CONSTANT_RADIUS) == [7]


@pytest.mark.each_value
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("objective", PIXEL_OBJECTIVES)
@pytest.mark.parametrize("schedule", [CONSTANT_RADIUS, SEA_RADII], ids=["constant", "reduced"])
def test_inside_the_ball_and_the_box_and_never_better_than_clean(segmenter, scenes, threat, objective, schedule):
    images, labels = scenes
    found = apgd(segmenter, images, labels, threat, 5, objective, radius_schedule=schedule)
    assert threat.distance(found.images, images).max() <= threat.radius + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert (found.accuracy <= accuracy_of(segmenter, images, labels)).all()
    assert torch.equal(found.accuracy, accuracy_of(segmenter, found.images, labels))
    assert found.accuracy.mean() < accuracy_of(segmenter, images, labels).mean()


def test_the_clean_image_is_a_candidate(segmenter, scenes):
    """Where an attack only makes things worse for itself, the clean image stands."""
    images, labels = scenes
    with torch.no_grad():
        predicted = segmenter.predict(images, labels.shape[1:]).long()
    wrong = (predicted + 1) % 4
    found = apgd(segmenter, images, wrong, Threat("linf", 0.1), 5)
    assert torch.equal(found.images, images) and (found.accuracy == 0).all()
    none = apgd(segmenter, images, labels, Threat("linf", 0.0), 3)
    assert torch.equal(none.images, images)


@pytest.mark.each_value
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("objective", ["cross_entropy", "jensen_shannon", "segpgd", "cospgd"])
def test_not_worse_than_pgd_of_equal_steps(segmenter, scenes, threat, objective):
    images, labels = scenes[0][:6], scenes[1][:6]
    ours = apgd(segmenter, images, labels, threat, 25, objective).accuracy.mean()
    assert ours <= pgd(segmenter, images, labels, threat, 25, objective).accuracy.mean()


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_a_linear_model_is_attacked_optimally(linear, threat):
    """The smallest margin that a perturbation of this radius leaves is known, where no pixel meets the box."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3 * 8 * 8, generator=generator)
    images = 0.5 + 0.1 * torch.rand(6, 3, 8, 8, generator=generator)
    model = linear(weight, torch.zeros(2))
    difference = weight[0] - weight[1]
    pixels = difference.view(3, 64).norm(dim=0).sum()
    dual = {"linf": difference.abs().sum(), "l2": difference.norm(), "per_pixel_l2": pixels}[threat.norm]
    # A bias that no perturbation quite overcomes: nothing stops early.
    labels = torch.zeros(6, dtype=torch.int64)
    margins = model(images) @ torch.tensor([1.0, -1.0])
    model.bias = torch.tensor([threat.radius * dual + 1 - margins.min(), 0.0])
    found = apgd(model, images, labels, threat, 30)
    drop = (model(images) - model(found.images)) @ torch.tensor([1.0, -1.0])
    assert (found.accuracy == 1).all()
    assert torch.allclose(drop, threat.radius * dual.expand_as(drop), rtol=1e-3)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.05), ("linf", 0.1), ("l2", 0.3), ("l2", 0.6)])
def test_as_strong_as_pyautoattack(digits_classifier, norm, radius):
    base = pytest.importorskip("pyautoattack.autopgd_base")
    model, images, labels = digits_classifier
    names = {"linf": "Linf", "l2": "L2"}
    peer = base.APGDAttack(
        model, n_iter=100, norm=names[norm], eps=radius, seed=0, device="cpu", logger=logging.getLogger("peer")
    )
    peer.init_hyperparam(images)
    with torch.random.fork_rng(devices=[]):
        theirs = (model(peer.perturb(images, labels)).argmax(1) == labels).double().mean()
    ours = apgd(model, images, labels, Threat(norm, radius), 100).accuracy.mean()
    assert 0.02 < theirs < 0.9 and abs(ours - theirs) <= 0.01


@pytest.mark.parametrize(("norm", "radius", "equal"), [("linf", 0.08, 1.0), ("l2", 0.5, 0.4)])
def test_the_path_is_pyautoattacks(digits_classifier, monkeypatch, norm, radius, equal):
    """
    From the same start the same end, after steps with momentum, halved steps and ways back to the best point.

    In l2 the peer rounds its steps otherwise, so that some images part at a checkpoint; without momentum none ends
    alike. The label's logit is raised so far that no attack succeeds, and none stops.
    """
    base = pytest.importorskip("pyautoattack.autopgd_base")
    model, images, labels = digits_classifier
    model, images = copy.deepcopy(model).double(), images[:5].double()
    threat, ended_alike = Threat(norm, radius), []
    for position, label in enumerate(labels[:5].tolist()):
        image, target = images[position : position + 1], torch.tensor([label])
        raised = _Raised(model, label, 12.0)
        start = threat.random_start(image, torch.Generator().manual_seed(position))
        peer = base.APGDAttack(
            raised,
            n_iter=100,
            norm={"linf": "Linf", "l2": "L2"}[norm],
            eps=radius,
            seed=0,
            device="cpu",
            logger=logging.getLogger("peer"),
        )
        peer.init_hyperparam(image)
        theirs, accuracy, _, _ = peer.attack_single_run(image, target, x_init=start)
        assert accuracy.item() == 1
        monkeypatch.setattr("lrsegformer.attacks.apgd.random_starts", lambda *_, start=start: start)
        ours = apgd(raised, image, target, threat, 100)
        ended_alike.append((ours.images - theirs).abs().max().item() < 1e-6)
    assert sum(ended_alike) >= equal * len(ended_alike)


def test_progress_on_masked_objectives_is_measured_by_what_does_not_fall(segmenter, scenes, monkeypatch):
    images, labels = scenes[0][:2], scenes[1][:2]
    calls = []

    def watched(logits, *rest, **options):
        calls.append(len(logits))
        return jensen_shannon(logits, *rest, **options)

    monkeypatch.setattr("lrsegformer.attacks.apgd.jensen_shannon", watched)
    apgd(segmenter, images, labels, THREATS[0], 3, "cross_entropy")
    assert not calls
    for objective in ("masked_cross_entropy", "balanced_masked_cross_entropy"):
        calls.clear()
        apgd(segmenter, images, labels, THREATS[0], 3, objective)
        assert calls == [2] * 4, "the start and every step"


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_a_gradient_that_is_no_number_is_no_robustness(segmenter, scenes, threat):
    class Broken(nn.Module):
        def forward(self, images):
            return segmenter(images) + 0 * (images - images.detach()).sqrt().sum()

    images, labels = scenes[0][:2], scenes[1][:2]
    with pytest.raises(NotFiniteError, match="gradient of the attack's objective is not finite"):
        apgd(Broken(), images, labels, threat, 3)


def test_logits_that_are_no_numbers_get_one_line(linear):
    model = linear(torch.full((2, 4), math.nan), torch.zeros(2))
    with pytest.raises(InputError, match="logits of clean images are not finite"):
        apgd(model, torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.long), THREATS[0], 2)


def test_dlr_does_not_care_for_the_scale_of_the_logits(digits_classifier):
    """Logits so large that cross entropy has no gradient left: what a model may hide behind."""
    model, images, labels = digits_classifier
    right = model(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    scaled = nn.Sequential(model, _Times(1e4))
    threat = Threat("linf", 0.1)
    plain = apgd(model, images, labels, threat, 20, "dlr").accuracy.mean()
    assert abs(apgd(scaled, images, labels, threat, 20, "dlr").accuracy.mean() - plain) <= 0.01
    assert apgd(scaled, images, labels, threat, 20, "cross_entropy").accuracy.mean() > plain + 0.1


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return logits * self.factor


def test_does_not_depend_on_the_batch(segmenter, scenes):
    images, labels = scenes
    names = [f"scene {row}" for row in range(len(images))]
    whole = apgd(segmenter, images, labels, THREATS[0], 8, image_ids=names, seed=3)
    for row in (0, 5):
        part = slice(row, row + 1)
        single = apgd(segmenter, images[part], labels[part], THREATS[0], 8, image_ids=names[part], seed=3)
        # The signs of gradients next to 0 are rounding.
        assert ((single.images - whole.images[part]).abs() > 1e-6).double().mean() < 0.01
    other = apgd(segmenter, images, labels, THREATS[0], 8, image_ids=names, seed=4)
    assert not torch.equal(other.images, whole.images)


def test_finished_images_are_left_alone(digits_classifier):
    model, images, labels = digits_classifier
    right = model(images).argmax(1) == labels
    watched = Watched(model)
    found = apgd(watched, images[right], labels[right], Threat("linf", 0.3), 40)
    assert (found.accuracy == 0).all()
    sizes = [len(batch) for batch in watched.images]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) < 0.3 * 41 * sizes[0]


def test_larger_radii_come_first_and_are_no_candidates(segmenter, scenes):
    images, labels = scenes
    watched, threat = Watched(segmenter), Threat("linf", 0.02)
    found = apgd(watched, images, labels, threat, 20, "jensen_shannon", radius_schedule=SEA_RADII)
    reached = [float(threat.distance(batch, images).max()) / 0.02 for batch in watched.images]
    # The clean images, then 6 + 6 + 8 steps, each phase with the point that it starts from.
    assert len(reached) == 1 + 7 + 7 + 9 and reached[0] == 0
    assert max(reached[1:8]) == pytest.approx(2, rel=1e-4) and max(reached[8:15]) == pytest.approx(1.5, rel=1e-4)
    assert max(reached[15:]) == pytest.approx(1, rel=1e-4)
    assert threat.distance(found.images, images).max() <= 0.02 + 1e-6


def test_targeted(segmenter, scenes):
    images, labels = scenes
    targets = torch.where(labels == 255, 255, 2)
    found = apgd(segmenter, images, targets, Threat("linf", 0.2), 30, "cross_entropy", targeted=True)
    assert found.accuracy.mean() > accuracy_of(segmenter, images, targets).mean() + 0.3
    assert torch.equal(found.accuracy, accuracy_of(segmenter, found.images, targets))


def test_restarts_help_or_change_nothing(segmenter, scenes):
    images, labels = scenes
    once = apgd(segmenter, images, labels, THREATS[0], 6)
    twice = apgd(segmenter, images, labels, THREATS[0], 6, restarts=3)
    assert (twice.accuracy <= once.accuracy).all() and twice.accuracy.mean() < once.accuracy.mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps 0"),
        ({"restarts": 0}, "restarts 0"),
        ({"objective": "hinge"}, "unknown attack objective 'hinge'"),
        ({"images": torch.full((12, 3, 32, 32), 2.0)}, "pixels in \\[0, 1\\]"),
        ({"images": torch.full((12, 3, 32, 32), math.nan)}, "pixels in \\[0, 1\\]"),
        ({"labels": torch.full((12, 32, 32), 7)}, "labels from 7 to 7, but the model has 4 classes"),
        ({"labels": torch.zeros(3, 32, 32)}, "12 images and 3 labels"),
    ],
)
def test_bad_input_gets_one_line(segmenter, scenes, change, message):
    images, labels = scenes
    options = {"images": images, "labels": labels, "threat": THREATS[0], "steps": 2, **change}
    with pytest.raises(InputError, match=message) as caught:
        apgd(segmenter, **options)
    assert "\n" not in str(caught.value)


class _Raised(nn.Module):
    """A model with one logit raised."""

    def __init__(self, model, label, height):
        super().__init__()
        self.model, self.label, self.height = model, label, height

    def forward(self, images):
        logits = self.model(images).clone()
        logits[:, self.label] += self.height
        return logits
