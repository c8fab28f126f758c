"""The judge of certificates: a certified pixel never flips, and where the constant is none the judge says so."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.certificate_judge import (
    ATTACKS,
    NearestPixels,
    Verdict,
    Watch,
    constant_of,
    distances_to_other_classes,
    inverse_row_distances,
    judge,
)
from lrsegformer.attacks.threat import Threat
from lrsegformer.certification.calculus import constants
from lrsegformer.certification.margins import certified_pixels, inverse_distances

NORMS = ("l2", "per_pixel_l2")


class StandIn(nn.Module):
    """A segmenter of known constants: normalisation, 2x2 patches, two orthogonal maps with ReLU, classifier."""

    def __init__(self, seed, num_labels=5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first, second = (
            torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))[0] for _ in range(2)
        )
        self.first, self.second = first, second
        self.weight = torch.randn(num_labels, 12, generator=generator, dtype=torch.float64)

    def network_constants(self, height, width):
        # A pixel's patch has 4 pixels, so its length is at most twice the largest of theirs.
        return constants(l2=4.0, per_pixel=8.0)

    def classifier_rows(self):
        return self.weight

    def features(self, images):
        patches = functional.pixel_unshuffle((images.double() - 0.5) / 0.25, 2)
        for matrix in (self.first, self.second):
            patches = functional.conv2d(patches, matrix[:, :, None, None]).relu()
        return patches

    def forward(self, images):
        return functional.conv2d(self.features(images), self.weight[:, :, None, None]).to(images.dtype)


class PixelsAsFeatures(nn.Module):
    """A linear segmenter whose features are the pixels themselves: all constants are exactly 1."""

    def __init__(self, seed=0, num_labels=4):
        super().__init__()
        self.weight = torch.randn(num_labels, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def forward(self, images):
        middle = torch.full((1, 3, 1, 1), 0.5, dtype=images.dtype)
        return functional.conv2d(images - middle, self.weight.to(images.dtype)[:, :, None, None])


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def radius_of_share(model, image, size, constant, rows, share):
    """The radius at which this share of the pixels is not certified."""
    watch = Watch(model, image, size, Threat("l2", 0.0), constant, rows)
    return float(watch.radii.quantile(share))


@pytest.mark.parametrize("norm", [*NORMS, "linf"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_flips_a_certified_pixel(attack, norm):
    model, image = StandIn(0), draw(1, 3, 16, 16)
    constant, rows = constant_of(model.network_constants(16, 16), norm), model.classifier_rows()
    assert constant == {"l2": 4.0, "per_pixel_l2": 8.0, "linf": 8.0 * math.sqrt(3)}[norm]
    radius = radius_of_share(model, image, (16, 16), constant, rows, 0.4)
    verdict = judge(model, image, (16, 16), Threat(norm, radius), constant, rows, attack, steps=15, restarts=2)
    assert verdict.flipped_pixels == 0 and verdict.judged_pixels == pytest.approx(0.6 * 256, abs=2)
    assert 0 < verdict.least_margin_left < 1 and 0 < verdict.largest_bound_used <= 1
    # The clean image; then of each restart its start and its steps.
    assert verdict.images == 1 and verdict.iterates >= 1 + 2 * 16


# In l2 an attack on many pixels spreads its radius over them, and comes nowhere near any one pixel's certificate.
@pytest.mark.parametrize(("attack", "norm"), [*((name, "per_pixel_l2") for name in ATTACKS), ("one_pixel", "l2")])
def test_a_constant_that_is_too_small_is_found_out(attack, norm):
    model, image = PixelsAsFeatures(), 0.3 + 0.4 * draw(1, 3, 12, 12, seed=2)
    radius = radius_of_share(model, image, (12, 12), 1.0, model.weight, 0.1)
    honest, wrong = (
        judge(model, image, (12, 12), Threat(norm, size), constant, model.weight, attack, steps=20, restarts=2)
        for size, constant in ((radius, 1.0), (3 * radius, 1 / 3))
    )
    assert honest.flipped_pixels == 0 and honest.largest_bound_used <= 1 + 1e-9
    assert wrong.judged_pixels == honest.judged_pixels > 100
    assert wrong.flipped_pixels > 0 and wrong.least_margin_left < 0 and wrong.largest_bound_used > 1.5


@pytest.mark.parametrize("norm", NORMS)
def test_the_attack_on_one_pixel_goes_to_the_boundary(norm):
    model, image = PixelsAsFeatures(), 0.3 + 0.4 * draw(1, 3, 12, 12, seed=2)
    radius = 0.999 * radius_of_share(model, image, (12, 12), 1.0, model.weight, 0.0)
    verdict = judge(model, image, (12, 12), Threat(norm, radius), 1.0, model.weight, "one_pixel", 40, 1)
    assert verdict.flipped_pixels == 0
    assert verdict.least_margin_left == pytest.approx(0.001, abs=1e-3)
    assert verdict.largest_bound_used == pytest.approx(1, abs=1e-3)


def test_distances_are_where_the_prediction_turns():
    model, generator = StandIn(3), torch.Generator().manual_seed(0)
    features = torch.randn(1, 12, 4, 5, generator=generator, dtype=torch.float64)
    rows = model.weight

    def classes_of(moved):
        return torch.einsum("kc,bchw->bkhw", rows, moved).argmax(dim=1)

    classes = classes_of(features)
    logits = torch.einsum("kc,bchw->bkhw", rows, features)
    distances = distances_to_other_classes(logits, classes, inverse_row_distances(rows))
    for _ in range(200):
        direction = torch.randn(features.shape, generator=generator, dtype=torch.float64)
        unit = direction / direction.norm(dim=1, keepdim=True)
        assert torch.equal(classes_of(features + 0.999 * distances * unit), classes)
    # Along the difference to the nearest class it turns right behind the distance.
    turned = torch.zeros_like(classes, dtype=torch.bool)
    for other in range(len(rows)):
        towards = (rows[other] - rows[classes]).movedim(-1, 1)
        unit = towards / towards.norm(dim=1, keepdim=True).clamp_min(1e-12)
        turned |= classes_of(features + 1.001 * distances * unit) != classes
    assert turned.all()


@pytest.mark.parametrize("size", [(4, 5), (9, 13)])
def test_the_package_certifies_no_more_than_the_judge(size):
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    logits = 4 * torch.randn(2, 5, 4, 5, generator=generator)
    found = certified_pixels(logits, inverse_distances(rows), size)
    maps = functional.interpolate(logits.double(), size, mode="bilinear", align_corners=False)
    classes = maps.argmax(dim=1)
    assert torch.equal(found.classes.long(), classes)
    distances = distances_to_other_classes(maps, classes, inverse_row_distances(rows))
    assert (found.distances <= distances).all()
    assert (found.distances >= (distances - 1e-4).clamp_min(0)).all()


def test_rows_that_coincide_are_told_apart_by_their_biases_alone():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    maps = torch.tensor([[3.0, 2.0, 1.0], [2.0, 2.0, 1.0]])[:, :, None, None].requires_grad_()
    classes = torch.zeros(2, 1, 1, dtype=torch.long)
    distances = distances_to_other_classes(maps, classes, inverse_row_distances(rows).float())
    assert distances.flatten().tolist() == pytest.approx([2 / math.sqrt(2), 0.0])
    (gradient,) = torch.autograd.grad(distances.sum(), maps)
    assert gradient.isfinite().all()


def test_the_objective_pushes_the_nearest_of_the_counted_pixels():
    model, image = PixelsAsFeatures(), draw(1, 3, 6, 6)
    watch = Watch(model, image, (6, 6), Threat("l2", 0.1), 1.0, model.weight)
    labels = watch.labels(draw(1, 6, 6, seed=1) < 0.5)
    objective = NearestPixels(watch.inverse, 3)
    image = image.clone().requires_grad_()
    values, right = objective.values_and_right(model(image), labels)
    counted = watch.distances[labels >= 0]
    assert right.item() == counted.numel()
    torch.testing.assert_close(values, -counted.sort().values[:3].sum()[None])
    (gradient,) = torch.autograd.grad(values.sum(), image)
    pushed = gradient.abs().sum(dim=1) > 0
    assert pushed.sum() == 3 and (labels[pushed] >= 0).all()
    assert watch.distances[pushed].max() == counted.sort().values[2]
    assert objective(model(image), torch.full_like(labels, -1)).item() == 0


def test_every_image_that_is_asked_about_counts():
    """A pixel that flips in the middle of a run and comes back has flipped; so has a tie, or a logit that is nan."""

    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.answers = [2.0, 1.0, -1.0, 1.5, 0.0, math.nan]

        def forward(self, images):
            one = torch.full((1, 1, 1, 2), self.answers.pop(0))
            one[..., 1] = 3.0
            return torch.cat([one, torch.zeros(1, 1, 1, 2)], dim=1)

    rows = torch.tensor([[1.0], [0.0]])
    image = torch.full((1, 3, 1, 2), 0.5)
    watch = Watch(Scripted(), image, (1, 2), Threat("l2", 0.5), 1.0, rows)
    assert watch.certified.tolist() == [[[True, True]]] and watch.labels().tolist() == [[[0, 0]]]
    counts, moved = [], image + 0.1
    for _ in range(5):
        watch(moved)
        counts.append(int(watch.flipped.sum()))
        watch.flipped.fill_(False) if len(counts) >= 3 else None
    assert counts == [0, 1, 1, 1, 1] and watch.iterates == 5
    assert watch.least_left == -0.5
    assert watch.bound_used == pytest.approx(3 / (0.1 * math.sqrt(6)), rel=1e-5)


def test_what_leaves_the_ball_is_no_attack():
    model, image = PixelsAsFeatures(), draw(1, 3, 4, 4)
    watch = Watch(model, image, (4, 4), Threat("per_pixel_l2", 0.01), 1.0, model.weight)
    with pytest.raises(RuntimeError, match="outside the per_pixel_l2 ball"):
        watch(image * 0.9)


@pytest.mark.parametrize("attack", ATTACKS)
def test_images_are_judged_as_pixels_are(attack, linear):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 48, generator=generator, dtype=torch.float64)
    model, image = linear(weight, torch.zeros(3)), 0.4 + 0.2 * draw(1, 3, 4, 4, seed=1)
    radius = 0.9 * radius_of_share(model, image, (1, 1), 1.0, weight, 0.0)
    honest, wrong = (
        judge(model, image, (1, 1), Threat("l2", size), constant, weight, attack, steps=20, restarts=1)
        for size, constant in ((radius, 1.0), (3 * radius, 1 / 3))
    )
    assert (honest.judged_pixels, honest.flipped_pixels, wrong.flipped_pixels) == (1, 0, 1)
    # At nine tenths of the radius no perturbation leaves less than a tenth of the margin.
    assert 0.1 - 1e-9 <= honest.least_margin_left < 0.3


def test_verdicts_add_up():
    model, image = PixelsAsFeatures(), draw(1, 3, 4, 4)
    nothing = judge(model, image, (4, 4), Threat("l2", 100.0), 1.0, model.weight, "pgd")
    assert nothing == Verdict() and nothing.to_json()["least_margin_left"] is None
    total = Verdict(1, 10, 0, 5, 0.3, 0.5) + Verdict(1, 20, 2, 6, -0.1, 0.4) + nothing
    assert total == Verdict(2, 30, 2, 11, -0.1, 0.5)
