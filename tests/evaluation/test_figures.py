"""The pictures hold what they should: colours where the classes are, stripes where nothing counts."""

import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

import lrsegformer.evaluation.curves as curves
from lrsegformer.evaluation import (
    holds_bounds,
    palette,
    save_bounds,
    save_classification_samples,
    save_curves,
    save_samples,
)
from lrsegformer.evaluation.figures import colour_classes


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def holds_colour(picture, colour):
    return (np.abs(picture.astype(int) - np.asarray(colour)).max(axis=-1) <= 1).sum()


@pytest.mark.parametrize("num_labels", [1, 2, 19, 150, 1000, 2000])
def test_colours_are_distinct_and_always_the_same(num_labels):
    colours = palette(num_labels)
    assert colours.shape == (num_labels, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == num_labels
    assert np.array_equal(colours, palette(num_labels))


def test_colours_of_a_usual_number_of_classes_are_far_apart():
    colours = np.vstack([palette(150), [[0, 0, 0], [255, 255, 255], [128, 128, 128]]]).astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=-1) + 1000 * np.eye(len(colours), dtype=int)
    assert distance.min() >= 20
    assert np.array_equal(palette(150)[:11], palette(11))


def test_ignored_pixels_are_striped():
    classes = np.array([[0, 255], [1, -100]]).repeat(40, axis=0).repeat(40, axis=1)
    coloured = colour_classes(classes, palette(2))
    assert (coloured[:40, :40] == palette(2)[0]).all()
    assert (coloured[40:, :40] == palette(2)[1]).all()
    right = {tuple(colour) for colour in coloured[:, 40:].reshape(-1, 3)}
    assert right == {(0, 0, 0), (128, 128, 128)}


def test_sheet_of_segmentation_samples(tmp_path):
    rng = np.random.default_rng(0)
    colours = palette(3)
    images = [rng.integers(0, 255, (60, 80, 3), dtype=np.uint8), Image.new("RGB", (50, 90), (10, 20, 30))]
    truths = [np.full((60, 80), 0, np.uint8), np.full((90, 50), 255, np.uint8)]
    predictions = [np.full((60, 80), 1, np.int64), np.full((90, 50), 1, np.int64)]
    path = tmp_path / "samples.png"
    save_samples(images, truths, predictions, path, colours, ["_background_", "cost in $ and $", "never"])
    picture = pixels(path)
    assert holds_colour(picture, colours[0]) > 1000
    assert holds_colour(picture, colours[1]) > 1.5 * holds_colour(picture, colours[0])
    assert holds_colour(picture, colours[2]) == 0
    assert holds_colour(picture, (128, 128, 128)) > 500


def test_sheet_with_more_classes_than_the_legend_holds(tmp_path):
    truth = np.arange(100, dtype=np.uint8).reshape(10, 10)
    names = [f"class {label}" for label in range(100)]
    save_samples([np.zeros((10, 10, 3), np.uint8)], [truth], [truth], tmp_path / "many.png", palette(100), names)
    assert pixels(tmp_path / "many.png").shape[0] < 1500


def test_sheet_of_classified_images(tmp_path):
    images = [Image.new("RGB", (30 + 10 * index, 40), (0, 200, 0)) for index in range(8)]
    names = ["cat"] * 8
    save_classification_samples(images, names, ["cat"] * 7 + ["a very long name of a dog breed"], tmp_path / "cls.png")
    picture = pixels(tmp_path / "cls.png")
    assert holds_colour(picture, (0, 200, 0)) > 5000
    assert holds_colour(picture, (214, 39, 40)) > 0, "a wrong caption is red"


def test_curves_draw_the_panels_that_have_values(tmp_path):
    log_history = [
        {"step": step, "loss": 3 / step, "loss_task": 2 / step, "loss_lipschitz": 1 / step, "lipschitz/fuse": 0.5}
        for step in range(1, 20)
    ]
    save_curves(log_history, tmp_path / "three.png")
    scores = {
        "step": 19,
        "eval_loss": 1.0,
        "eval_mean_iou": 0.4,
        "eval_f1": float("nan"),
        "eval_per_category_iou": [1],
    }
    save_curves([*log_history, scores, {"step": 19, "train_runtime": 3.0}], tmp_path / "four.png")
    save_curves([{"step": 1, "loss": 1.0}], tmp_path / "one.png")
    save_curves([], tmp_path / "none.png")
    save_curves([{"step": 1, "loss": float("nan")}], tmp_path / "nan.png")
    shapes = {name: pixels(tmp_path / f"{name}.png").shape for name in ("one", "three", "four", "none", "nan")}
    assert shapes["three"] == shapes["four"]
    assert shapes["four"][0] == 2 * shapes["one"][0]
    assert shapes["none"] == shapes["nan"] == shapes["one"]
    # The fourth quarter is empty without scores and holds ink with them.
    quarter = (slice(shapes["four"][0] // 2, None), slice(shapes["four"][1] // 2, None))
    assert (pixels(tmp_path / "three.png")[quarter] == 255).all()
    assert (pixels(tmp_path / "four.png")[quarter] < 255).any()


NAMES = {"head": "the head: features to logits", "network": "the network: pixels to logits"}


def labels(axes, black=False):
    """The names of the curves, or of the black ones."""
    lines = [line for line in axes.lines if not black or np.array_equal(to_rgb(line.get_color()), (0, 0, 0))]
    return {line.get_label() for line in lines}


def logged_bounds(**bounds):
    return [{"step": step, "loss": 1.0, **{f"lipschitz/{key}": value for key, value in bounds.items()}}
            for step in range(1, 9)]  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "scale"),
    [
        ({"fuse": 1.0, "classifier": 9.0}, "linear"),
        ({"fuse": 1.0, "classifier": 2.0, "head": 11.0}, "log"),
        ({"fuse": 0.0, "head": 11.0}, "linear"),
        ({"fuse": 1.0, "classifier": float("inf")}, "linear"),
    ],
)
def test_axis_of_the_bounds(tmp_path, monkeypatch, bounds, scale):
    drawn = []
    monkeypatch.setattr(curves, "write_figure", lambda figure, path: drawn.append(figure))
    save_bounds(logged_bounds(**bounds), tmp_path / "bounds.png")
    (axes,) = drawn[0].axes
    assert axes.get_yscale() == scale
    finite = {key for key, value in bounds.items() if np.isfinite(value)}
    assert labels(axes) == {NAMES.get(key, key) for key in finite}
    assert labels(axes, black=True) == {NAMES[key] for key in finite & set(NAMES)}


@pytest.mark.parametrize(
    "bounds", [{"fuse": 1.0, "classifier": 2.0, "head": 30.0}, {"head": 1.5, "network": 80.0}], ids=["head", "network"]
)
def test_curves_name_the_bounds_that_matter(tmp_path, monkeypatch, bounds):
    drawn = []
    monkeypatch.setattr(curves, "write_figure", lambda figure, path: drawn.append(figure))
    save_curves(logged_bounds(**bounds), tmp_path / "curves.png")
    (axes,) = (axes for axes in drawn[0].axes if axes.get_title() == "guaranteed Lipschitz bounds")
    assert labels(axes) == {NAMES.get(key, key) for key in bounds} and axes.get_yscale() == "log"
    assert labels(axes, black=True) == {NAMES[key] for key in bounds if key in NAMES}
    assert [line.get_ydata()[-1] for line in axes.lines] == [
        bounds[key] for key in sorted(bounds, key=lambda key: (key not in NAMES, key))
    ]
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert shown == labels(axes), "the legend names every curve"


def test_pictures_of_bounds(tmp_path):
    layers, with_head = logged_bounds(fuse=1.0, classifier=2.0), logged_bounds(fuse=1.0, classifier=2.0, head=1.5)
    for name, log in {"layers": layers, "head": with_head, "none": [{"step": 1, "loss": 1.0}]}.items():
        save_bounds(log, tmp_path / f"{name}.png")
        save_curves(log, tmp_path / f"{name}-curves.png")
    assert not np.array_equal(pixels(tmp_path / "layers.png"), pixels(tmp_path / "head.png"))
    assert not np.array_equal(pixels(tmp_path / "layers-curves.png"), pixels(tmp_path / "head-curves.png"))
    assert pixels(tmp_path / "none.png").shape == pixels(tmp_path / "head.png").shape
    assert holds_bounds(layers) and holds_bounds(with_head)
    assert not holds_bounds([{"step": 1, "loss": 1.0}, {"step": 2, "lipschitz/fuse": float("nan")}])


def test_pyplot_is_left_alone(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    save_curves([{"step": 1, "loss": 1.0}], tmp_path / "one.png")
    assert ("matplotlib.pyplot" in sys.modules) == loaded
