"""The picture of a confusion matrix: that it can be read with few classes and with many."""

import numpy as np
import pytest
from PIL import Image

from lrsegformer.evaluation import confusion_figure


def draw(num_labels, monkeypatch, tmp_path):
    """The figure as it is written, with a class that has no reference, and its counts."""
    figures, write = [], confusion_figure.write_figure

    def keep(figure, path):
        figures.append(figure)
        write(figure, path)

    monkeypatch.setattr(confusion_figure, "write_figure", keep)
    counts = np.random.default_rng(num_labels).integers(1, 2000, (num_labels, num_labels))
    counts[1] = 0
    names = [f"_$class {number}, which has a long name" for number in range(num_labels)]
    confusion_figure.save_confusion_matrix(counts, names, tmp_path / "matrix.png", "a_$title")
    return figures[0], counts


@pytest.mark.one_in(2)
@pytest.mark.parametrize("num_labels", [3, 150])
def test_names_have_room_and_rows_are_shares(num_labels, monkeypatch, tmp_path):
    figure, counts = draw(num_labels, monkeypatch, tmp_path)
    axes = figure.axes[0]
    cell = axes.get_window_extent().height / num_labels
    labels = axes.get_yticklabels()
    assert len(labels) == len(axes.get_xticklabels()) == num_labels
    heights = [label.get_window_extent().height for label in labels]
    assert max(heights) <= cell and min(label.get_fontsize() for label in labels) >= 4
    assert all(label.get_window_extent().x0 >= 0 for label in labels)
    shares = axes.images[0].get_array()
    present = np.arange(num_labels) != 1
    assert np.allclose(shares[present], counts[present] / counts[present].sum(axis=1, keepdims=True))
    assert shares.mask[1].all() or np.isnan(np.asarray(shares)[1]).all()
    assert bool(axes.texts) == (num_labels <= 30)
    with Image.open(tmp_path / "matrix.png") as picture:
        assert max(picture.size) < 3000


@pytest.mark.slow
def test_hundreds_of_classes_are_drawn_without_names(monkeypatch, tmp_path):
    figure, _ = draw(300, monkeypatch, tmp_path)
    assert "by class index" in figure.axes[0].get_xlabel() and not figure.axes[0].texts


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (812, "812"), (45_100, "45.1 k"), (3.2e6, "3.2 M"), (7e9, "7.0 G")]
)
def test_counts_in_brief(count, text):
    assert confusion_figure._brief(count) == text
