"""PGD: known optima, the rules every attack keeps, and independent implementations."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import SegformerImageProcessorPil

from lrsegformer.attacks.apgd import apgd
from lrsegformer.attacks.objectives.table import OBJECTIVES
from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.registry import ATTACKS
from lrsegformer.attacks.threat import Threat
from lrsegformer.choices import NORMS
from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.evaluation import predict_classes

PIXEL_OBJECTIVES = [name for name in OBJECTIVES if name != "dlr"]


def share_right(model, images, labels):
    """Accuracy of each image, counted anew from the classes."""
    with torch.no_grad():
        logits = model(images)
    if logits.ndim == 2:
        return (logits.argmax(1) == labels).double()
    valid = (labels != 255) & (labels >= 0)
    right = (predict_classes(logits, tuple(labels.shape[1:])).long() == labels) & valid
    return right.flatten(1).sum(1).double() / valid.flatten(1).sum(1).clamp_min(1)


def random_images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    st.sampled_from(NORMS),
    st.sampled_from([0.0, 1e-5, 1 / 255, 0.1, 3.0]),
    st.sampled_from(PIXEL_OBJECTIVES),
    st.integers(0, 10**6),
    st.booleans(),
    st.booleans(),
)
def test_attacks_stay_inside_and_never_raise_accuracy(
    per_pixel_linear, norm, radius, objective, seed, random_start, targeted
):
    generator = torch.Generator().manual_seed(seed)
    model = per_pixel_linear(torch.randn(3, 3, generator=generator), torch.randn(3, generator=generator))
    images = (1.4 * torch.rand(3, 3, 6, 5, generator=generator) - 0.2).clamp(0, 1)
    labels = torch.randint(0, 3, (3, 9, 11), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    threat = Threat(norm, radius)
    result = pgd(model, images, labels, threat, 3, objective, random_start=random_start, targeted=targeted, seed=seed)
    assert (threat.distance(result.images, images) <= radius + 1e-6).all()
    assert result.images.min() >= 0 and result.images.max() <= 1
    torch.testing.assert_close(result.accuracy, share_right(model, result.images, labels), atol=0, rtol=0)
    clean = share_right(model, images, labels)
    assert ((result.accuracy >= clean) if targeted else (result.accuracy <= clean)).all()
    if radius == 0:
        assert torch.equal(result.images, images)


class WrongWay(torch.autograd.Function):
    """The identity whose gradient has the wrong sign: every step of an attack makes the model's life easier."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def test_the_clean_image_is_a_candidate_where_the_attack_helps_the_model(linear):
    weight = torch.tensor([[1.0, 1.0, -1.0, 0.5], [-1.0, 0.0, 1.0, 0.5]])
    plain = linear(weight, torch.zeros(2))

    class Misleading(torch.nn.Module):
        def forward(self, images):
            return plain(WrongWay.apply(images))

    images = random_images(40, 1, 2, 2)
    labels = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(1))
    result = pgd(Misleading(), images, labels, Threat("linf", 0.3), 5, random_start=False)
    assert torch.equal(result.images, images)
    # A random start may find something; it never loses something.
    started = pgd(Misleading(), images, labels, Threat("linf", 0.3), 5, restarts=3)
    assert (share_right(plain, started.images, labels) <= share_right(plain, images, labels)).all()


@pytest.mark.each_value
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("scale", "margin"), [(1.0, 1.0), (1.0, 40.0), (1e-5, 1.0)])
def test_the_optimal_perturbation_of_a_linear_classifier_is_found(linear, norm, random_start, scale, margin):
    # float64, because the values of float32 cannot tell iterates apart whose angle to the optimum is below 1e-3.
    weight = scale * torch.randn(2, 3 * 4 * 4, generator=torch.Generator().manual_seed(2)).double()
    images, radius = 0.4 + 0.2 * random_images(4, 3, 4, 4).double(), 0.05
    if norm == "linf":
        images[0] = random_images(3, 4, 4, seed=5).round()  # The box cuts the ball.
    threat = Threat(norm, radius)
    for row, label in enumerate([0, 1, 0, 1]):
        image, labels = images[[row]], torch.tensor([label])
        towards = (weight[1 - label] - weight[label]).view(1, 3, 4, 4)
        unit = _steepest(towards, norm)
        optimum = (image + radius * unit).clamp(0, 1)
        # A bias that leaves the label a margin even there: a run ends where the prediction flips.
        model = linear(weight, torch.zeros(2).double())
        logits = model(optimum)[0]
        model.bias[label] = logits[1 - label] - logits[label] + margin * scale
        # On the sphere each step takes the angle to the optimum down by radius / (radius + step).
        options = {"step_size": radius / 4, "random_start": random_start, "image_ids": [row]}
        result = pgd(model, image, labels, threat, 60, **options)
        assert result.accuracy.item() == 1
        assert threat.distance(result.images, optimum) <= 1e-3 * radius


def _steepest(gradient, norm):
    """The unit vectors of the norm along which linear functions of these gradients `(n, 3, h, w)` rise fastest."""
    if norm == "linf":
        return gradient.sign()
    lengths = torch.linalg.vector_norm(gradient, dim=(1, 2, 3) if norm == "l2" else 1, keepdim=True)
    return gradient / lengths.clamp_min(torch.finfo(gradient.dtype).tiny)


@pytest.mark.parametrize(("attack", "options"), [(pgd, {"step_size": 0.3 / 4}), (apgd, {})])
def test_the_box_takes_no_strength_from_the_per_pixel_attack(linear, attack, options):
    """
    Where the box cuts a pixel's ball the best perturbation puts what is left of the radius into the other channels:
    the largest step along the gradient whose clamped length is the radius.
    """
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(2, 3 * 4 * 4, generator=generator).double()
    image = torch.rand(1, 3, 4, 4, generator=generator).double()
    image[torch.rand(image.shape, generator=generator) < 0.3] = 1.0
    towards, radius = (weight[1] - weight[0]).view(1, 3, 4, 4), 0.3
    shortest, longest = torch.zeros(1, 1, 4, 4).double(), torch.full((1, 1, 4, 4), 1e3).double()
    for _ in range(60):
        middle = (shortest + longest) / 2
        too_far = ((image + middle * towards).clamp(0, 1) - image).norm(dim=1, keepdim=True) > radius
        shortest, longest = torch.where(too_far, shortest, middle), torch.where(too_far, middle, longest)
    optimum = (image + shortest * towards).clamp(0, 1)
    model = linear(weight, torch.zeros(2).double())
    logits = model(optimum)[0]
    model.bias[0] = logits[1] - logits[0] + 1.0
    found = attack(model, image, torch.tensor([0]), Threat("per_pixel_l2", radius), 100, **options)
    margin = model(found.images)[0] @ torch.tensor([1.0, -1.0]).double()
    gained = (model(image)[0] @ torch.tensor([1.0, -1.0]).double() - margin).item()
    assert 1 - 1e-9 <= margin.item() <= 1 + 1e-4 * gained


def test_the_optimal_perturbation_of_a_linear_segmenter_is_found(per_pixel_linear):
    weight = torch.tensor([[0.5, -1.0, 0.3], [-0.2, 0.4, 1.0]])
    model = per_pixel_linear(weight, torch.tensor([4.0, 0.0]))
    towards = weight[1] - weight[0]
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[0, 2:, :] = 255
    counted = (labels != 255)[:, None]
    # linf: each counted pixel by itself, whatever it holds; ignored pixels are left as they are.
    images = random_images(1, 3, 6, 6)
    optimum = (images + counted * 0.1 * towards.sign().view(1, 3, 1, 1)).clamp(0, 1)
    result = pgd(model, images, labels, Threat("linf", 0.1), 20, random_start=False)
    torch.testing.assert_close(result.images, optimum, atol=1e-4, rtol=0)
    # Per pixel: the same with the whole radius along the difference of the rows.
    inner = 0.3 + 0.4 * images
    optimum = inner + counted * 0.1 * _steepest(towards.view(1, 3, 1, 1), "per_pixel_l2")
    result = pgd(model, inner, labels, Threat("per_pixel_l2", 0.1), 20, random_start=False)
    torch.testing.assert_close(result.images, optimum, atol=1e-4, rtol=0)
    # l2: pixels with the same margin share the ball evenly while r |w| / sqrt(pixels) < 1, where the loss of a pixel
    # is concave in the square of its perturbation.
    flat = torch.full((1, 3, 6, 6), 0.5)
    radius, pixels = 0.3, int(counted.sum())
    optimum = flat + counted * (radius / pixels**0.5) * (towards / towards.norm()).view(1, 3, 1, 1)
    result = pgd(model, flat, labels, Threat("l2", radius), 40, random_start=False)
    torch.testing.assert_close(result.images, optimum, atol=1e-3 * radius, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_one_full_step(digits_classifier, norm, targeted):
    model, images, labels = digits_classifier
    model, images = copy.deepcopy(model).double(), images[:40].double().requires_grad_()
    labels = (labels[:40] + 3 * targeted) % 10
    losses = torch.nn.functional.cross_entropy(model(images), labels, reduction="none")
    (gradient,) = torch.autograd.grad((-losses if targeted else losses).sum(), images)
    images = images.detach()
    unit = _steepest(gradient, norm)
    stepped = (images + 0.1 * unit).clamp(0, 1)
    result = pgd(model, images, labels, Threat(norm, 0.1), targeted=targeted, **ATTACKS["fgsm"].arguments)
    one_step = pgd(model, images, labels, Threat(norm, 0.1), 1, step_size=0.1, random_start=False, targeted=targeted)
    assert torch.equal(result.images, one_step.images)
    moved = (result.images != images).flatten(1).any(1)
    assert moved.sum() > 30
    torch.testing.assert_close(result.images[moved], stepped[moved], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.03), ("linf", 0.06), ("l2", 0.2), ("l2", 0.4)])
def test_accuracy_is_that_of_foolbox_at_the_same_steps(digits_classifier, norm, radius):
    foolbox = pytest.importorskip("foolbox", reason="foolbox of the extra robustness is not installed")
    model, images, labels = digits_classifier
    ours = pgd(model, images, labels, Threat(norm, radius), 50, step_size=0.05 * radius)
    accuracy = share_right(model, ours.images, labels).mean().item()
    assert 0.1 < accuracy < share_right(model, images, labels).mean().item() - 0.05
    attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm](rel_stepsize=0.05, steps=50)
    torch.manual_seed(0)
    _, _, flipped = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, labels, epsilons=radius)
    assert accuracy == pytest.approx(1 - flipped.double().mean().item(), abs=0.01)


@pytest.mark.parametrize(
    ("norm", "radius"),
    [
        pytest.param("linf", 0.03, marks=pytest.mark.slow),
        ("linf", 0.06),
        pytest.param("l2", 0.2, marks=pytest.mark.slow),
        pytest.param("l2", 0.4, marks=pytest.mark.slow),
    ],
)
def test_accuracy_is_that_of_autopgd_after_restarts(digits_classifier, norm, radius):
    pyautoattack = pytest.importorskip("pyautoattack", reason="pyautoattack of the extra robustness is not installed")
    model, images, labels = digits_classifier
    engine = pyautoattack.AutoAttack(
        model, attacks=["apgd-ce"], eps=radius, norm={"linf": "Linf", "l2": "L2"}[norm], seed=0, version="custom"
    )
    theirs, _ = engine.run_standard_evaluation(images, labels)
    # Its steps start at two radii and shrink, and it restarts five times; a fixed step needs as many runs, and
    # one run of 50 short steps ends 3 % higher at the largest l2 radius.
    ours = pgd(model, images, labels, Threat(norm, radius), 100, step_size=radius / 10, restarts=5)
    expected = share_right(model, theirs, labels).mean().item()
    assert share_right(model, ours.images, labels).mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("objective", ["cross_entropy", "cospgd", "balanced_masked_cross_entropy"])
def test_results_do_not_depend_on_how_the_images_are_batched(make_stock, objective):
    processor = SegformerImageProcessorPil()
    model = PixelModel(make_stock(), processor).double()
    images = random_images(5, 3, 32, 32).double()
    with torch.no_grad():
        labels = predict_classes(model(images), (32, 32)).long()
    labels[:, :4] = 255
    ids = ["e", "a", "d", "b", "c"]
    threat = Threat("linf", 2 / 255)
    options = {"objective": objective, "restarts": 2, "seed": 7}
    whole = pgd(model, images, labels, threat, 3, image_ids=ids, **options)
    for rows in ([0], [4, 1], [2, 3]):
        chosen = [ids[row] for row in rows]
        part = pgd(model, images[rows], labels[rows], threat, 3, image_ids=chosen, **options)
        torch.testing.assert_close(part.images, whole.images[rows], atol=1e-9, rtol=0)
        torch.testing.assert_close(part.accuracy, whole.accuracy[rows], atol=0, rtol=0)
    other = pgd(model, images, labels, threat, 3, image_ids=ids, **{**options, "seed": 8})
    assert not torch.equal(other.images, whole.images)


@pytest.mark.each_value
@pytest.mark.parametrize("kind", ["stock", "stable_softplus"])
@pytest.mark.parametrize("objective", PIXEL_OBJECTIVES)
def test_segformer_loses_pixels(make_model, make_stock, kind, objective):
    network = make_stock() if kind == "stock" else make_model(kind)
    images = 0.3 + 0.4 * random_images(2, 3, 32, 32)
    processor = SegformerImageProcessorPil()
    with torch.no_grad():
        # A bias that lets every class have its pixels, as in a trained model.
        network.decode_head.classifier.bias -= PixelModel(network, processor)(images).mean(dim=(0, 2, 3))
    model = PixelModel(network, processor)
    labels = model.predict(images).long()
    result = pgd(model, images, labels, Threat("linf", 8 / 255), 5, objective)
    assert share_right(model, images, labels).min() == 1
    assert result.accuracy.max() < 0.95


def test_targets_are_reached(digits_classifier, per_pixel_linear):
    model, images, labels = digits_classifier
    targets = (labels[:60] + 1) % 10
    result = pgd(model, images[:60], targets, Threat("linf", 0.4), 30, targeted=True)
    assert share_right(model, images[:60], targets).mean() < 0.1
    assert share_right(model, result.images, targets).mean() > 0.95
    generator = torch.Generator().manual_seed(0)
    segmenter = per_pixel_linear(torch.randn(4, 3, generator=generator), torch.zeros(4))
    pictures = random_images(3, 3, 8, 8)
    with torch.no_grad():
        target = (segmenter(pictures) + 1.5 * torch.randn(3, 4, 8, 8, generator=generator)).argmax(1)
    before = share_right(segmenter, pictures, target)
    for objective in PIXEL_OBJECTIVES:
        found = pgd(segmenter, pictures, target, Threat("linf", 0.5), 20, objective, targeted=True)
        assert (found.accuracy > before + 0.1).all(), objective


def test_images_that_are_lost_are_left_alone(digits_classifier):
    model, images, labels = digits_classifier
    seen = []

    class Counting(torch.nn.Module):
        def forward(self, batch):
            seen.append(len(batch))
            return model(batch)

    labels = labels.clone()
    labels[:100] = (labels[:100] + 1) % 10
    already = share_right(model, images, labels) == 0
    result = pgd(Counting(), images, labels, Threat("linf", 0.5), 20)
    assert torch.equal(result.images[already], images[already])
    assert seen[0] == len(images) and seen[1] == int((~already).sum())
    assert sum(seen[1:]) < 20 * seen[1] / 2


def test_images_without_a_pixel_that_counts_stay_as_they_are(per_pixel_linear):
    model = per_pixel_linear(torch.eye(3), torch.zeros(3))
    images, labels = random_images(2, 3, 4, 4), torch.full((2, 4, 4), 255)
    result = pgd(model, images, labels, Threat("l2", 1.0), 2)
    assert torch.equal(result.images, images)
    assert result.accuracy.tolist() == [0, 0]


def test_more_restarts_are_never_worse(digits_classifier):
    model, images, labels = digits_classifier
    once, often = (pgd(model, images, labels, Threat("linf", 0.05), 5, restarts=count) for count in (1, 4))
    assert (often.accuracy <= once.accuracy).all()


class NoNumber(torch.autograd.Function):
    """The identity whose gradient is NaN."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_that_is_no_number_is_an_error_not_a_success(norm):
    class Broken(torch.nn.Module):
        def forward(self, images):
            return NoNumber.apply(images).flatten(1)

    images, labels = random_images(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    images[:, 0, 0, 0] = 1
    with pytest.raises(NotFiniteError, match="gradient .* is not finite"):
        pgd(Broken(), images, labels, Threat(norm, 0.01), 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.full((2, 1, 2, 2), 1.5)}, r"pixels in \[0, 1\]"),
        ({"labels": torch.tensor([0])}, "2 images and 1 labels"),
        ({"labels": torch.tensor([0, 2])}, "the model has 2 classes"),
        ({"labels": torch.tensor([0, -1])}, "labels from -1"),
        ({"steps": 0}, "steps 0"),
        ({"restarts": 0}, "restarts 0"),
        ({"step_size": -1.0}, "step size -1.0"),
        ({"restarts": 2, "random_start": False}, "without random starts"),
        ({"objective": "dice"}, "'dice'"),
        ({"objective": "dlr"}, "3 classes"),
    ],
)
def test_bad_input_gets_one_line(linear, change, words):
    call = {"images": torch.zeros(2, 1, 2, 2), "labels": torch.tensor([0, 1]), "steps": 2}
    with pytest.raises(InputError, match=words) as error:
        pgd(linear(torch.ones(2, 4), torch.zeros(2)), threat=Threat("linf", 0.1), **{**call, **change})
    assert "\n" not in str(error.value)


def test_a_model_of_one_class_gets_one_line(linear):
    with pytest.raises(InputError, match="two classes or more"):
        pgd(
            linear(torch.ones(1, 4), torch.zeros(1)),
            torch.zeros(1, 1, 2, 2),
            torch.zeros(1, dtype=torch.long),
            Threat("linf", 0.1),
            2,
        )
