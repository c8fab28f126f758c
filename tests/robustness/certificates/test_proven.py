"""What certificates of a model stand on: its head's bound in feature space, and the constants of whole networks."""

import pytest
import torch
from torch.nn import functional
from transformers import SegformerImageProcessorPil

from lrsegformer import STRATEGIES
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat
from lrsegformer.certification.margins import certified_pixels, certified_radii
from lrsegformer.robustness.certificates.proven import (
    FEATURES,
    NETWORK,
    feature_norms,
    normalisation_factor,
    proof_of,
    upsampling_norm,
)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_features_that_move_less_than_the_radius_change_no_class(strategy, make_model):
    """The head is attacked by gradient on its features, with steps to the edge of the certified ball."""
    model = make_model(strategy, num_labels=5).double()
    proof, note = proof_of(PixelModel(model, SegformerImageProcessorPil()))
    assert proof.reach == FEATURES and "feature space" in note
    generator = torch.Generator().manual_seed(0)
    sizes = [(8, 8), (4, 4), (2, 2), (1, 1)]
    features = [
        3 * torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)
        for channels, size in zip((8, 8, 16, 16), sizes, strict=True)
    ]
    found = certified_pixels(model.decode_head(features).detach(), proof.inverse)
    constant = proof.constants(FEATURES, (32, 32), (8, 8), (8, 8)).per_pixel
    radii = certified_radii(found.distances, constant).double()[0]
    for place in radii.flatten().argsort()[[0, 20, 40, 63]].tolist():
        row, column = divmod(place, 8)
        top = int(found.classes[0, row, column])
        # Every pixel of a stage moves the same way, the four stages by shares of the radius whose squares sum to 1.
        moved = [feature.clone().requires_grad_() for feature in features]
        logits = model.decode_head(moved)[0, :, row, column]
        runner_up = int(logits.detach().index_fill(0, torch.tensor(top), -torch.inf).argmax())
        gradients = torch.autograd.grad(logits[runner_up] - logits[top], moved)
        directions = [gradient.sum(dim=(2, 3), keepdim=True) for gradient in gradients]
        shares = torch.stack([direction.norm() for direction in directions])
        shares = shares / shares.norm()
        attacked = [
            feature.detach() + 0.999 * radii[row, column] * share * functional.normalize(direction, dim=1)
            for feature, share, direction in zip(features, shares, directions, strict=True)
        ]
        assert int(model.decode_head(attacked)[0, :, row, column].argmax()) == top


def test_what_has_no_proof(make_model, make_stock):
    for model, word in (
        (make_model(), "baseline"),
        (make_model("orthogonal", scope="projections"), "'projections'"),
        (make_stock(), "stock"),
    ):
        proof, note = proof_of(PixelModel(model, SegformerImageProcessorPil()))
        assert proof is None and word in note and note.startswith("No certificate")


def test_the_classifier_of_images_has_the_rows_themselves(make_model):
    model = make_model("orthogonal", task="classification", num_labels=4)
    proof, _ = proof_of(PixelModel(model, SegformerImageProcessorPil()))
    constants = proof.constants(FEATURES, (32, 32), None, None)
    assert constants.per_pixel == 1.0 and proof.norms(["l2"]) == [FEATURES]
    distances = torch.pdist(model.classifier.effective_weight().double())
    rows, columns = torch.triu_indices(4, 4, offset=1)
    inverse = proof.inverse[rows, columns]
    assert torch.allclose(inverse.double(), 1 / distances, rtol=1e-5)


def test_the_norms_of_features(make_model):
    processor = SegformerImageProcessorPil()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for task in ("segmentation", "classification"):
        model = PixelModel(make_model("orthogonal", task=task), processor)
        found = feature_norms(model, images)
        stages = model.model.segformer(model.normalise(images), output_hidden_states=True).hidden_states
        if task == "segmentation":
            expected = [sum(stage[row].square().sum(dim=0).max() for stage in stages) ** 0.5 for row in range(2)]
        else:
            expected = [stages[-1][row].mean(dim=(1, 2)).norm() for row in range(2)]
        assert torch.allclose(found, torch.stack(expected), rtol=1e-4)


@pytest.mark.parametrize("size", [((3, 4), (12, 16)), ((5, 3), (5, 3)), ((4, 6), (7, 9)), ((8, 8), (4, 4))])
def test_the_norm_of_upsampling_is_that_of_the_whole_map(size):
    source, target = size
    units = torch.eye(source[0] * source[1], dtype=torch.float64).view(-1, 1, *source)
    whole = functional.interpolate(units, target, mode="bilinear", align_corners=False).flatten(1)
    expected = torch.linalg.matrix_norm(whole, 2).item()
    assert expected * (1 - 1e-6) <= upsampling_norm(source, target) <= expected * (1 + 1e-6)


def test_constants_of_a_whole_network(stand_in):
    model = stand_in(scale=2.0)
    proof, note = proof_of(model)
    assert proof.reach == NETWORK and "pixels" in note and proof.norms(["l2"]) == ["l2"]
    found = proof.constants("l2", (32, 32), (16, 16), (32, 32))
    assert found.per_pixel == pytest.approx(1.0, rel=1e-5)
    assert found.collective == pytest.approx(upsampling_norm((16, 16), (32, 32)), rel=1e-5)
    per_pixel = proof.constants("per_pixel_l2", (32, 32), (16, 16), (32, 32))
    assert per_pixel.per_pixel == pytest.approx(2.0, rel=1e-5)
    assert per_pixel.collective == pytest.approx(2 * 16 * upsampling_norm((16, 16), (32, 32)), rel=1e-5)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_certified_network_keeps_its_classes_within_the_radius(task, make_model):
    """The real network under gradient steps to the edge of the certified ball of single pixels, in both norms."""
    pixel_model = PixelModel(make_model("orthogonal", scope="certified", task=task), SegformerImageProcessorPil())
    proof, note = proof_of(pixel_model)
    assert proof.reach == NETWORK and "pixels" in note
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = pixel_model(images)
    sides = (tuple(logits.shape[2:]), (64, 64)) if task == "segmentation" else (None, None)
    found = certified_pixels(logits, proof.inverse, sides[1])
    for norm in ("l2", "per_pixel_l2"):
        constants = proof.constants(norm, (64, 64), *sides)
        assert 0 < constants.per_pixel < 100
        radii = certified_radii(found.distances, constants.per_pixel)
        places = radii.flatten().argsort(descending=True)[:: max(1, radii.numel() // 3)].tolist()
        for place in places:
            moved = images.clone().requires_grad_()
            shown = pixel_model(moved)
            if task == "segmentation":
                shown = functional.interpolate(shown, sides[1], mode="bilinear", align_corners=False)
            own = shown.flatten(2)[0, :, place] if task == "segmentation" else shown[0]
            top = int(found.classes.flatten()[place])
            runner_up = int(own.detach().index_fill(0, torch.tensor(top), -torch.inf).argmax())
            (gradient,) = torch.autograd.grad(own[runner_up] - own[top], moved)
            radius = 0.999 * float(radii.flatten()[place])
            attacked = images + radius * Threat(norm, radius).step(gradient)
            classes = certified_pixels(pixel_model(attacked), proof.inverse, sides[1]).classes
            assert int(classes.flatten()[place]) == top and radius > 0


def test_another_normalisation_than_the_configuration_says_is_paid_for(make_model):
    model = make_model("orthogonal", scope="certified")
    usual = PixelModel(model, SegformerImageProcessorPil())
    assert normalisation_factor(usual) == 1.0
    other = PixelModel(model, SegformerImageProcessorPil(image_std=[0.229, 0.112, 0.225]))
    assert normalisation_factor(other) == pytest.approx(2.0)
    ratio = [proof_of(each)[0].constants("l2", (64, 64), (16, 16), (64, 64)).per_pixel for each in (other, usual)]
    assert ratio[0] == pytest.approx(2 * ratio[1])
