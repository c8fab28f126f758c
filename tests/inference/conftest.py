"""Tiny models as folders, and images as people have them."""

import numpy as np
import pytest
from PIL import Image
from transformers import BitImageProcessorPil

from lrsegformer.data.processor import build_processor


@pytest.fixture(scope="session")
def saved_models(make_model, make_stock, tmp_path_factory):
    """Folders of models by name; those with `classifier` in theirs classify images."""
    root = tmp_path_factory.mktemp("saved_models")
    sizes = {"certified_training_radius": 0.1}
    made = {
        "stock": make_stock(),
        "ours": make_model("stable_softplus"),
        "certified": make_model("orthogonal", "certified", **sizes),
        "grid": make_model("orthogonal", "certified", certified_position_grid=[2, 3], **sizes),
        "classifier": make_stock("classification"),
        "certified_classifier": make_model("orthogonal", "certified", "classification", **sizes),
    }
    for name, model in made.items():
        model.config.id2label = dict(enumerate(("sky", "road", "tree", "car", "_other")))
        model.save_pretrained(root / name)
        if "classifier" in name:
            processor = BitImageProcessorPil(
                size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, do_convert_rgb=True
            )
        else:
            processor = build_processor("segmentation", 64, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        processor.save_pretrained(root / name)
    return root


def noise(width, height, seed=0):
    rows = np.linspace(0, 155, height)[:, None, None]
    pixels = rows + np.random.default_rng(seed).integers(0, 100, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def photographs(tmp_path, turned_photograph):
    """A folder with photographs of several sizes, one of them turned by its tag, and a file that is no image."""
    folder = tmp_path / "photographs"
    (folder / "deeper").mkdir(parents=True)
    for number, size in ((1, (80, 64)), (2, (80, 64)), (10, (70, 100))):
        noise(*size, number).save(folder / f"frame{number}.png")
    noise(80, 64, 4).save(folder / "deeper" / "frame1.png")
    turned_photograph(folder / "turned.jpg")
    (folder / "broken.jpg").write_text("no image")
    return folder


@pytest.fixture
def exit_status(tmp_path, monkeypatch):
    """`exit_status(main, *words)`: of a command line in a folder of its own; 0 where it ends by itself."""
    monkeypatch.chdir(tmp_path)

    def call(main, *words):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            return stop.code
        return 0

    return call
