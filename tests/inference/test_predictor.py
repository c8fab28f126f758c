"""A saved model as a function of images, against plain transformers and against the definitions of the protocols."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    SegformerImageProcessorPil,
)

import lrsegformer
from lrsegformer.data import ImageReading
from lrsegformer.errors import InputError
from lrsegformer.evaluation.figures import palette
from lrsegformer.evaluation.protocols import SCALES
from lrsegformer.inference import Predictor


def as_documented(folder, image):
    """What transformers' documentation makes of an image: classes at its own size, and the upsampled logits."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        model = AutoModelForSemanticSegmentation.from_pretrained(folder)
        logits = model(**processor(images=image, return_tensors="pt")).logits
    return functional.interpolate(logits, size=image.size[::-1], mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("name", ["stock", "ours", "certified"])
def test_maps_are_those_of_plain_transformers(saved_models, photographs, name):
    predictor = lrsegformer.Predictor.from_pretrained(saved_models / name, confidence=True)
    for file, size in (("frame1.png", (64, 80)), ("turned.jpg", (90, 70))):
        prediction = predictor(photographs / file)
        logits = as_documented(saved_models / name, prediction.image)
        assert prediction.classes.shape == prediction.confidence.shape == size
        assert (prediction.classes == logits.argmax(dim=0).numpy()).mean() > 0.999
        assert np.allclose(prediction.confidence, logits.softmax(dim=0).amax(dim=0).numpy(), atol=1e-5)
        assert prediction.certified_radius is None


def test_the_photograph_is_upright(saved_models, photographs):
    image = Predictor.from_pretrained(saved_models / "ours")(photographs / "turned.jpg").image
    assert image.size == (70, 90) and np.asarray(image)[:20].mean() + 80 < np.asarray(image)[-20:].mean()


def test_pictures_of_a_prediction(saved_models, photographs):
    prediction = Predictor.from_pretrained(saved_models / "ours")(Image.open(photographs / "frame1.png"))
    picture = prediction.class_map()
    assert picture.mode == "P" and np.array_equal(np.asarray(picture), prediction.classes)
    colours = palette(5)[prediction.classes]
    assert np.array_equal(np.asarray(picture.convert("RGB")), colours)
    blend = (colours.astype(int) + np.asarray(prediction.image)) / 2
    assert np.abs(np.asarray(prediction.overlay()) - blend).max() <= 1
    counts = np.bincount(prediction.classes.ravel(), minlength=5)
    assert prediction.shares() == {
        prediction.class_names[index]: counts[index] / counts.sum() for index in np.argsort(-counts) if counts[index]
    }


def test_several_images_come_as_a_list(saved_models, photographs):
    predictor = Predictor.from_pretrained(saved_models / "stock")
    files = [photographs / "frame1.png", str(photographs / "frame10.png")]
    found = predictor(files)
    assert [one.classes.shape for one in found] == [(64, 80), (100, 70)]
    assert np.array_equal(found[1].classes, predictor(files[1]).classes)


def test_windows_and_sizes(saved_models, photographs):
    folder, file = saved_models / "ours", photographs / "frame10.png"
    expected = Predictor.from_pretrained(folder)(file).classes
    as_large = Predictor.from_pretrained(folder, protocol="slide", window=200, stride=100)
    assert np.array_equal(as_large(file).classes, expected)
    small = Predictor.from_pretrained(folder, protocol="slide", window=48, stride=32)(file)
    assert small.classes.shape == expected.shape and (small.classes != expected).any()


def test_the_sizes_are_made_from_the_image_itself(saved_models, photographs):
    """Not from the input, which has lost what a larger size shows."""
    predictor = Predictor.from_pretrained(saved_models / "stock", protocol="multi_scale_flip", confidence=True)
    image = Image.open(photographs / "frame10.png")
    plain = AutoImageProcessor.from_pretrained(saved_models / "stock", backend="pil")
    sizes = [(round(scale * 91), round(scale * 64)) for scale in SCALES]  # 70 x 100 with the short side at 64
    processors = [SegformerImageProcessorPil(size={"height": h, "width": w}) for h, w in sizes]
    total = 0
    for processor in processors:
        processor.image_mean, processor.image_std = plain.image_mean, plain.image_std
        for mirrored in (False, True):
            pixels = processor(images=image, return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                logits = predictor.model(pixel_values=pixels.flip(3) if mirrored else pixels).logits
            logits = logits.flip(3) if mirrored else logits
            upsampled = functional.interpolate(logits, size=(100, 70), mode="bilinear", align_corners=False)
            total = total + upsampled.softmax(dim=1)[0] / 12
    assert np.allclose(predictor(image).confidence, total.amax(dim=0).numpy(), atol=1e-5)


def test_radii_are_what_the_certificate_says(saved_models, photographs):
    """No perturbation of a shorter length, towards another class for a pixel, changes that pixel's class."""
    predictor = Predictor.from_pretrained(saved_models / "certified", certified_radius=True)
    file = photographs / "frame1.png"
    prediction = predictor(file)
    assert np.array_equal(prediction.classes, Predictor.from_pretrained(saved_models / "certified")(file).classes)
    radius = prediction.certified_radius
    assert radius.dtype == np.float32 and radius.shape == (64, 80) and (radius >= 0).all() and radius.max() > 0
    model, std = predictor.model, torch.tensor(predictor.processor.image_std)[:, None, None]
    pixels = predictor.protocol.inputs(predictor.processor, prediction.image)[0][None].requires_grad_()
    place = np.unravel_index(np.argsort(radius, axis=None)[len(radius.ravel()) // 2], radius.shape)
    logits = functional.interpolate(model(pixels).logits, size=(64, 80), mode="bilinear", align_corners=False)
    at = logits[0, :, place[0], place[1]]
    (at[prediction.classes[place]] - at.topk(2).values[1]).backward()
    step = -pixels.grad * std  # from the gradient of the normalised pixels to those from 0 to 1
    step = step / step.norm() * float(radius[place]) * 0.999
    with torch.no_grad():
        moved = model(pixels + step / std).logits
    moved = functional.interpolate(moved, size=(64, 80), mode="bilinear", align_corners=False)
    assert moved[0, :, place[0], place[1]].argmax() == prediction.classes[place]


@pytest.mark.parametrize("name", ["classifier", "certified_classifier"])
def test_classes_of_images(saved_models, photographs, name):
    certified = name == "certified_classifier"
    predictor = Predictor.from_pretrained(saved_models / name, certified_radius=certified)
    prediction = predictor(photographs / "turned.jpg")
    processor = AutoImageProcessor.from_pretrained(saved_models / name, backend="pil")
    model = AutoModelForImageClassification.from_pretrained(saved_models / name)
    with torch.no_grad():
        logits = model(**processor(images=prediction.image, return_tensors="pt")).logits[0]
    assert np.allclose(prediction.probabilities, logits.softmax(dim=0).numpy(), atol=1e-6)
    assert prediction.index == logits.argmax() and prediction.name == prediction.class_names[prediction.index]
    top = prediction.top(3)
    assert top[0][0] == prediction.name and [share for _, share in top] == sorted((s for _, s in top), reverse=True)
    assert (prediction.certified_radius is not None) == certified


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing", {}, "MODEL .*missing: no such folder"),
        ("ours", {"protocol": "half"}, "protocol 'half' is unknown"),
        ("ours", {"window": 64}, "--window 64 is of the protocol slide"),
        ("ours", {"protocol": "slide", "window": 64, "stride": 65}, "--stride 65 is longer than the window of 64"),
        ("ours", {"protocol": "slide", "window": 9}, "--window is 9; give a whole number of at least 29"),
        ("ours", {"certified_radius": True}, "--certified_radius: Certified in feature space, not in pixels"),
        ("stock", {"certified_radius": True}, "--certified_radius: No certificate: a stock model"),
        ("certified", {"certified_radius": True, "protocol": "multi_scale_flip"}, "of one pass over the whole image"),
        ("classifier", {"protocol": "multi_scale_flip"}, "--protocol multi_scale_flip is for segmentation"),
        ("classifier", {"confidence": True}, "--confidence is for segmentation"),
    ],
)
def test_refused(saved_models, name, options, message):
    with pytest.raises(InputError, match=message):
        Predictor.from_pretrained(saved_models / name, **options)


def test_windows_of_a_model_that_knows_places_are_warned_of(saved_models, caplog):
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        Predictor.from_pretrained(saved_models / "grid", protocol="slide")
        Predictor.from_pretrained(saved_models / "certified", protocol="slide")
    finally:
        logging.disable_propagation()
    assert [record.message[:16] for record in caplog.records if "position grid" in record.message] == [
        "--protocol slide"
    ]


def test_files_are_read_as_the_model_was_trained(saved_models, tmp_path):
    deep = (np.arange(64 * 64).reshape(64, 64) % 4096).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    predictor = Predictor.from_pretrained(saved_models / "ours", reading=ImageReading(value_range=(0, 4095)))
    assert np.asarray(predictor.open(tmp_path / "deep.png")).max() == 255
    predictor.processor.image_range = [0, 8190]
    trained = Predictor(predictor.model, predictor.processor, reading=ImageReading(value_range=(0, 4095)))
    assert np.asarray(trained.open(tmp_path / "deep.png")).max() == 128
