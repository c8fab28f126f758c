"""A model of pixels in [0, 1]: the processor's normalisation, gradients to the pixels, ours (merged) and stock."""

import numpy as np
import pytest
import torch
from transformers import SegformerImageProcessorPil

from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.errors import InputError, NotFiniteError
from lrsegformer.evaluation import predict_classes

STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
KINDS = ["stock", None, "stable_softplus", "orthogonal"]


def a_processor(**options):
    return SegformerImageProcessorPil(size={"height": 64, "width": 64}, **{**STATISTICS, **options})


@pytest.fixture
def build(make_model, make_stock):
    def make(kind, task):
        return make_stock(task) if kind == "stock" else make_model(kind, task=task)

    return make


def pictures(size=64, batch=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def pixels(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_processor_and_the_model(build, kind, task):
    model, images = build(kind, task), pictures()
    processed = a_processor()(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values=processed).logits.clone()
    pixel_model = PixelModel(model, a_processor())
    torch.testing.assert_close(pixel_model.normalise(pixels(images)), processed, atol=1e-6, rtol=0)
    logits = pixel_model(pixels(images))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits, pixel_model.features_logits(pixels(images)))
    assert (pixel_model.task, pixel_model.num_labels) == (task, 5)
    assert logits.shape == ((2, 5, 16, 16) if task == "segmentation" else (2, 5))


def test_normalisation_is_the_formula_to_the_last_bit_and_may_be_off(make_stock):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack(
        [(images[:, i] - STATISTICS["image_mean"][i]) / STATISTICS["image_std"][i] for i in range(3)], dim=1
    )
    torch.testing.assert_close(PixelModel(make_stock(), a_processor()).normalise(images), expected, atol=2e-7, rtol=0)
    assert torch.equal(PixelModel(make_stock(), a_processor(do_normalize=False)).normalise(images), images)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_pixels_and_no_parameter(build, kind, task):
    model = PixelModel(build(kind, task), a_processor()).double()
    images = pixels(pictures()).double().requires_grad_()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = model(images)
    assert torch.isfinite(out).all()
    (gradient,) = torch.autograd.grad(out.square().sum(), images)
    step = 1e-6
    with torch.no_grad():
        difference = model(images + step * direction).square().sum() - model(images - step * direction).square().sum()
    assert (gradient * direction).sum().item() == pytest.approx(difference.item() / (2 * step), rel=1e-3)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_head_is_merged_and_stays_so_after_a_cast(make_model):
    model = make_model("stable_softplus").train()
    pixel_model = PixelModel(model, a_processor())
    assert not model.training and model.decode_head._merged is not None
    assert model.decode_head._merged.matrices[0].dtype == torch.float32
    pixel_model.to(torch.float64)
    assert model.decode_head._merged.matrices[0].dtype == torch.float64
    with pytest.raises(InputError, match="stays in eval mode"):
        pixel_model.train()


def test_predictions_are_at_the_size_of_the_labels(make_stock):
    images = pixels(pictures())
    model = PixelModel(make_stock(), a_processor())
    assert torch.equal(model.predict(images, (40, 48)), predict_classes(model(images), (40, 48)))
    assert model.predict(images).shape == (2, 64, 64)
    classifier = PixelModel(make_stock("classification"), a_processor())
    assert torch.equal(classifier.predict(images), classifier(images).argmax(1))


@pytest.mark.parametrize("options", [{"do_rescale": False}, {"rescale_factor": 1.0}])
def test_a_processor_of_other_pixels_gets_one_line(make_stock, options):
    with pytest.raises(InputError, match=r"pixels in \[0, 1\]"):
        PixelModel(make_stock(), a_processor(**options))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_predictions_of_a_model_that_overflows_are_refused(make_model, task):
    model = make_model(task=task)
    head = model.decode_head if task == "segmentation" else model
    with torch.no_grad():
        head.classifier.weight.fill_(3e38)
    with pytest.raises(NotFiniteError, match="not finite"):
        PixelModel(model, SegformerImageProcessorPil()).predict(torch.rand(1, 3, 64, 64))
