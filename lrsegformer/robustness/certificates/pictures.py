"""Pictures of certificates: image, truth, prediction, and how far each pixel's prediction is certified."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lrsegformer.evaluation.figures import (
    DOTS_PER_INCH,
    colour_classes,
    draw_legend,
    new_figure,
    palette,
    write_figure,
)
from lrsegformer.evaluation.picture_parts import PARTS_KEY, PicturePart, parts_text
from lrsegformer.robustness.subset import Batch
from lrsegformer.visible import visible

# What the parts of a sheet are called.
_PART_NAMES = {"image": "clean", "truth": "truth", "prediction": "clean_prediction"}


@dataclass(frozen=True)
class CertifiedPicture:
    """
    One image and its certificate.

    Attributes:
        position (`int`): in the subset.
        image (`numpy.ndarray`): uint8 RGB of shape `(height, width, 3)`, as the model receives it.
        truth, prediction (`numpy.ndarray`): integer maps at the size of the labels, or of shape `()`.
        radii (`numpy.ndarray`): float32 of that shape.
    """

    position: int
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    radii: np.ndarray

    @classmethod
    def of(cls, batch: Batch, row: int, classes: Tensor, radii: Tensor) -> CertifiedPicture:
        """The picture of an image of a batch."""
        image = (batch.images[row] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return cls(batch.positions[row], image, *(one.cpu().numpy() for one in (batch.labels[row], classes, radii)))


def save_certified_picture(
    picture: CertifiedPicture,
    title: str,
    unit: str,
    eps: Sequence[float],
    names: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """
    Draw image, truth, prediction and the map of certified radii with its colour bar; an image's class has no maps.

    The file keeps where each picture lies ([`~lrsegformer.evaluation.picture_parts.read_parts`]).

    Args:
        picture ([`CertifiedPicture`]): the image and its certificate.
        title (`str`): model and image.
        unit (`str`): what the radii are.
        eps (sequence of `float`): the radii of the table; the colours reach to 1.25 times the largest.
        names (sequence of `str`): class names.
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    if picture.truth.ndim == 0:
        return _save_image(picture, title, unit, names, path)
    width = 3.4
    height = width * picture.image.shape[0] / picture.image.shape[1]
    figure = new_figure(4 * width + 1.0, height + 1.2)
    figure.suptitle(visible(title), fontsize=10, parse_math=False)
    grid = figure.add_gridspec(2, 4, height_ratios=[height, 0.6])
    colours = palette(len(names))
    maps = [picture.image, colour_classes(picture.truth, colours), colour_classes(picture.prediction, colours)]
    drawn = {}
    for column, (name, shown) in enumerate(zip(("image", "truth", "prediction"), maps, strict=True)):
        axes = _picture_axes(figure, grid[0, column], name)
        axes.imshow(shown, interpolation="nearest")
        drawn[_PART_NAMES[name]] = axes
    axes = _picture_axes(figure, grid[0, 3], "certified radius")
    shown = axes.imshow(picture.radii, cmap="viridis", vmin=0.0, vmax=1.25 * max(eps), interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, extend="max", fraction=0.046)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    legend_axes = figure.add_subplot(grid[1, :])
    legend_axes.set_axis_off()
    draw_legend(legend_axes, [picture.truth, picture.prediction], colours, names)
    drawn["certified_radius"] = axes
    write_figure(figure, path, _places(figure, drawn, f"dark 0 to yellow {1.25 * max(eps):.3g} and more; {unit}"))


def _places(figure: Any, drawn: Mapping[str, Any], radii: str) -> dict[str, str]:
    """Where each picture lies in the file; `radii` is what the map of radii shows, in words."""
    figure.dpi = DOTS_PER_INCH
    figure.draw_without_rendering()
    width, height = (round(side) for side in figure.bbox.size)
    parts = []
    for name, axes in drawn.items():
        left, above = round(axes.bbox.x0), round(height - axes.bbox.y1)
        right, below = left + round(axes.bbox.width), above + round(axes.bbox.height)
        box = (left, above, min(width, right), min(height, below))
        parts.append(PicturePart(0, name, box, radii if name == "certified_radius" else ""))
    return {PARTS_KEY: parts_text(parts)}


def _picture_axes(figure: Any, place: Any, title: str) -> Any:
    axes = figure.add_subplot(place)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
    return axes


def _save_image(
    picture: CertifiedPicture, title: str, unit: str, names: Sequence[str], path: str | os.PathLike
) -> None:
    truth, prediction = names[int(picture.truth)], names[int(picture.prediction)]
    figure = new_figure(3.4, 3.9)
    axes = figure.add_subplot()
    axes.imshow(picture.image, interpolation="nearest")
    axes.set_axis_off()
    classes = f"true {visible(truth)}, predicted {visible(prediction)}"
    caption = f"{visible(title)}\n{classes}\ncertified radius {float(picture.radii):.4g} ({unit})"
    axes.set_title(caption, fontsize=8, parse_math=False)
    write_figure(figure, path, _places(figure, {"certified_radius": axes}, caption))
