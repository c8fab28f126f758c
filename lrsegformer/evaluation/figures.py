"""Sheets of samples, and the colours of classes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsegformer.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LEGEND_ENTRIES = 24
# Of every figure that is written.
DOTS_PER_INCH = 110

_OKLAB_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def palette(num_labels: int) -> np.ndarray:
    """Colours for classes: each as far as possible from those before it, and from black, white and grey.

    Args:
        num_labels (`int`): number of classes.

    Returns:
        `np.ndarray`: uint8 RGB of shape `(num_labels, 3)`, always the same; up to 1000 classes a shorter palette is
        the beginning of a longer one.
    """
    side = max(14, math.ceil((2 * num_labels) ** (1 / 3)) + 1)
    levels = np.linspace(0, 255, side).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = _oklab(candidates)
    # Nearly black, white or grey colours would pass for ignored pixels or for paper.
    colourful = (
        (positions[:, 0] > 0.3) & (positions[:, 0] < 0.97) & (np.hypot(positions[:, 1], positions[:, 2]) > 0.03)
    )
    candidates, positions = candidates[colourful], positions[colourful]
    reserved = _oklab(np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128]], dtype=np.uint8))
    distance = np.linalg.norm(positions[:, None] - reserved, axis=-1).min(axis=1)
    colours = np.empty((num_labels, 3), dtype=np.uint8)
    for label in range(num_labels):
        farthest = int(distance.argmax())
        colours[label] = candidates[farthest]
        distance = np.minimum(distance, np.linalg.norm(positions - positions[farthest], axis=-1))
    return colours


def _oklab(colours: np.ndarray) -> np.ndarray:
    """Bring uint8 sRGB into Oklab (Bjoern Ottosson, 2020), where distances are about as large as they look."""
    encoded = colours / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _OKLAB_LMS.T) @ _OKLAB_LAB.T


def save_samples(
    images: Sequence[Any],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    path: str | os.PathLike,
    palette: np.ndarray,
    names: Sequence[str],
) -> None:
    """Draw a sheet with a row for each sample: image, truth, prediction.

    Ignored pixels of the truth (255, and any value that is no class) are striped in black and grey. The legend names
    the classes on the sheet, the most frequent first.

    Args:
        images (sequence of `PIL.Image.Image` or `np.ndarray`): uint8 RGB, of any sizes.
        truths (sequence of `np.ndarray`): integer maps of shape `(height, width)`.
        predictions (sequence of `np.ndarray`): integer maps of shape `(height, width)`.
        path (`str` or `os.PathLike`): the PNG file to write.
        palette (`np.ndarray`): uint8 RGB of shape `(num_labels, 3)`.
        names (sequence of `str`): class names.
    """
    pictures = [
        [np.asarray(image), colour_classes(truth, palette), colour_classes(prediction, palette)]
        for image, truth, prediction in zip(images, truths, predictions, strict=True)
    ]
    width = 3.2
    heights = [width * image.shape[0] / image.shape[1] for image, _, _ in pictures]
    legend_height = 0.2 + 0.2 * math.ceil((min(len(names), MAX_LEGEND_ENTRIES) + 2) / 4)
    figure = new_figure(3 * width + 0.4, sum(heights) + 0.3 * len(pictures) + legend_height)
    grid = figure.add_gridspec(len(pictures) + 1, 3, height_ratios=[*heights, legend_height])
    for row, triple in enumerate(pictures):
        for column, (title, picture) in enumerate(zip(("image", "truth", "prediction"), triple, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=10)
    legend_axes = figure.add_subplot(grid[len(pictures), :])
    legend_axes.set_axis_off()
    draw_legend(legend_axes, [*truths, *predictions], palette, names)
    write_figure(figure, path)


def colour_classes(classes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """uint8 RGB of an integer map; what is no class is striped in black and grey."""
    classes = np.asarray(classes).astype(np.int64)
    is_class = (classes >= 0) & (classes < len(palette))
    coloured = palette[np.where(is_class, classes, 0)]
    rows, columns = np.indices(classes.shape)
    stripe = max(2, min(classes.shape) // 60)
    stripes = np.where((rows + columns) // stripe % 2 == 0, 0, 128).astype(np.uint8)
    return np.where(is_class[..., None], coloured, stripes[..., None])


def draw_legend(axes: Axes, maps: Sequence[np.ndarray], palette: np.ndarray, names: Sequence[str]) -> None:
    """The classes of the maps with their colours, the commonest first."""
    from matplotlib.patches import Patch

    values = np.concatenate([np.asarray(one).astype(np.int64).ravel() for one in maps])
    is_class = (values >= 0) & (values < len(palette))
    frequency = np.bincount(values[is_class], minlength=len(palette))
    shown = [label for label in np.argsort(-frequency, kind="stable") if frequency[label]]
    handles = [
        Patch(facecolor=palette[label] / 255.0, label=legend_entry(names[label]))
        for label in shown[:MAX_LEGEND_ENTRIES]
    ]
    if not is_class.all():
        handles.append(Patch(facecolor="0.5", edgecolor="black", hatch="/////", label="ignored"))
    if len(shown) > MAX_LEGEND_ENTRIES:
        handles.append(Patch(visible=False, label=f"and {len(shown) - MAX_LEGEND_ENTRIES} rarer classes"))
    legend = axes.legend(handles=handles, loc="upper center", ncols=4, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def legend_entry(name: str) -> str:
    """A name as matplotlib takes it into a legend, which drops what begins with an underscore."""
    return visible(name).lstrip("_")


def save_classification_samples(
    images: Sequence[Any], truth_names: Sequence[str], predicted_names: Sequence[str], path: str | os.PathLike
) -> None:
    """Draw a sheet of images, each with its predicted class and, where that is wrong, the true one.

    Args:
        images (sequence of `PIL.Image.Image` or `np.ndarray`): uint8 RGB, of any sizes.
        truth_names (sequence of `str`): true class of each image.
        predicted_names (sequence of `str`): predicted class of each image.
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    columns = min(6, max(1, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    figure = new_figure(1.9 * columns, 2.4 * rows)
    for index, (image, truth, predicted) in enumerate(zip(images, truth_names, predicted_names, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(np.asarray(image), interpolation="nearest")
        axes.set_axis_off()
        axes.set_anchor("N")
        right = truth == predicted
        caption = f"{_shorten(predicted)}\nright" if right else f"{_shorten(predicted)}\ntruth: {_shorten(truth)}"
        axes.set_title(caption, fontsize=8, color="tab:blue" if right else "tab:red", parse_math=False)
    write_figure(figure, path)


def _shorten(name: str, length: int = 24) -> str:
    name = visible(name)
    return name if len(name) <= length else name[: length - 3] + "..."


def new_figure(width: float, height: float) -> Figure:
    """A figure apart from pyplot, so that neither the backend nor the open figures of a notebook are touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Figure, path: str | os.PathLike, texts: Mapping[str, str] | None = None) -> None:
    """Write `figure` to the PNG file at `path`, which keeps `texts` by their keys."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # Not by `savefig`, which draws a figure with a layout twice; the pixels are the same.
    figure.dpi = DOTS_PER_INCH
    FigureCanvasAgg(figure).print_png(path, metadata=texts)
