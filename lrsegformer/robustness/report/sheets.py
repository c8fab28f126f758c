"""Sheets of pictures: an image, what was done to it, and what the model made of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from lrsegformer.evaluation.figures import palette
from lrsegformer.evaluation.picture_parts import PARTS_KEY, PicturePart, parts_text
from lrsegformer.visible import visible

SHOWN_IMAGES = 4
_SIDE = 300  # pixels of a picture's width: a sheet for every cell has to stay small and quick, so Pillow draws it
_GAP, _LINE, _SWATCH = 8, 18, 12
VOID = (96, 96, 96)
_LEGEND_ENTRIES, _LEGEND_COLUMNS = 24, 6
_COLUMNS = ("clean", "perturbed", "change", "truth", "clean_prediction", "perturbed_prediction")


@dataclass(frozen=True)
class Sample:
    """
    One row of a sheet.

    Attributes:
        clean, perturbed (`numpy.ndarray`): uint8 RGB of shape `(height, width, 3)`.
        truth, before, after (`numpy.ndarray` or `int`): the true classes, those predicted for the clean image, and
            those predicted for the perturbed one: integer maps of one size, or class indices.
    """

    clean: np.ndarray
    perturbed: np.ndarray
    truth: np.ndarray | int
    before: np.ndarray | int
    after: np.ndarray | int


def save_sheet(samples: Sequence[Sample], title: str, names: Sequence[str], path: str | os.PathLike) -> None:
    """
    Draw a row for each sample: clean image, perturbed image, the change enlarged, and truth and both predictions.

    The change is grey where nothing changed; its factor stands above it. Pixels of the truth that do not count are
    grey. The captions of maps give the share of right pixels. The legend names the commonest classes of the sheet.
    The file keeps where each picture lies ([`~lrsegformer.evaluation.picture_parts.read_parts`]).

    Args:
        samples (sequence of [`Sample`]): at least one.
        title (`str`): model and condition.
        names (sequence of `str`): class names.
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    colours = palette(len(names))
    with_maps = np.ndim(samples[0].truth) == 2
    rows = [_images(sample) + (_maps(sample, colours) if with_maps else []) for sample in samples]
    if not with_maps:
        for row, sample in zip(rows, samples, strict=True):
            row[1] = (row[1][0], _classes_caption(sample, names))
    maps = [one for sample in samples for one in (sample.truth, sample.before, sample.after)]
    draw_sheet(rows, title, legend_of(maps, colours, names) if with_maps else [], path)


def draw_sheet(
    rows: Sequence[Sequence[tuple[Image.Image, str]]],
    title: str,
    legend: Sequence[tuple[tuple, str]],
    path: str | os.PathLike,
) -> None:
    """
    Draw rows of pictures with their captions under a title, and a legend below.

    Args:
        rows (sequence of sequences of `tuple`): pictures of [`sized`] and captions.
        title (`str`): of the sheet.
        legend (sequence of `tuple`): colours and words, such as those of [`legend_of`].
        path (`str` or `os.PathLike`): the PNG file to write.
    """
    heights = [max(picture.height for picture, _ in row) + _LINE + _GAP for row in rows]
    legend_rows = -(-len(legend) // _LEGEND_COLUMNS)
    width = max(len(row) for row in rows) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, sum(heights) + (legend_rows + 2) * _LINE), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((width // 2, _GAP), visible(title), "black", ImageFont.load_default(15), anchor="mt")
    top, parts = 2 * _LINE, []
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, (picture, caption) in enumerate(row):
            left = _GAP + column * (_SIDE + _GAP)
            draw.text((left + _SIDE // 2, top), visible(caption), "black", font, anchor="mt")
            sheet.paste(picture, (left, top + _LINE))
            box = (left, top + _LINE, left + picture.width, top + _LINE + picture.height)
            parts.append(PicturePart(number, _COLUMNS[column], box, caption))
        top += height
    for number, (colour, name) in enumerate(legend):
        left = _GAP + number % _LEGEND_COLUMNS * (width // _LEGEND_COLUMNS)
        below = top + number // _LEGEND_COLUMNS * _LINE
        draw.rectangle((left, below, left + 2 * _SWATCH, below + _SWATCH), colour)
        draw.text((left + 3 * _SWATCH, below), visible(name), "black", font)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    texts = PngInfo()
    texts.add_text(PARTS_KEY, parts_text(parts))
    sheet.save(path, pnginfo=texts)


def _images(sample: Sample) -> list[tuple[Image.Image, str]]:
    difference = sample.perturbed.astype(np.int16) - sample.clean.astype(np.int16)
    largest = int(np.abs(difference).max())
    factor = max(1, 127 // max(1, largest))
    change = (128 + factor * difference).clip(0, 255).astype(np.uint8)
    caption = f"change x {factor}" if largest else "no change of half a level"
    return [(sized(sample.clean), "clean"), (sized(sample.perturbed), "perturbed"), (sized(change), caption)]


def _maps(sample: Sample, colours: np.ndarray) -> list[tuple[Image.Image, str]]:
    counted = is_class(sample.truth, len(colours))

    def share(prediction: np.ndarray | int) -> str:
        right = (np.asarray(prediction).astype(np.int64) == np.asarray(sample.truth))[counted]
        return f"{100 * right.mean():.1f} % right" if right.size else "nothing counts"

    return [
        (sized(coloured(sample.truth, colours)), "truth"),
        (sized(coloured(sample.before, colours)), f"of clean: {share(sample.before)}"),
        (sized(coloured(sample.after, colours)), f"of perturbed: {share(sample.after)}"),
    ]


def is_class(classes: np.ndarray | int, num_labels: int) -> np.ndarray:
    """Where a map holds a class, and not what does not count."""
    classes = np.asarray(classes).astype(np.int64)
    return (classes >= 0) & (classes < num_labels)


def coloured(classes: np.ndarray | int, colours: np.ndarray) -> np.ndarray:
    """uint8 RGB of an integer map; what does not count is grey."""
    counted = is_class(classes, len(colours))
    return np.where(counted[..., None], colours[np.where(counted, classes, 0)], np.uint8(VOID))


def legend_of(maps: Sequence[np.ndarray], colours: np.ndarray, names: Sequence[str]) -> list[tuple[tuple, str]]:
    """Colour and name of the commonest classes of the maps, and of void where there is any."""
    values = np.concatenate([np.asarray(one).astype(np.int64).ravel() for one in maps])
    counted = is_class(values, len(colours))
    frequency = np.bincount(values[counted], minlength=len(colours))
    shown = [label for label in np.argsort(-frequency, kind="stable") if frequency[label]][:_LEGEND_ENTRIES]
    entries = [(tuple(colours[label].tolist()), names[label][:24]) for label in shown]
    return entries if counted.all() else [*entries, (VOID, "does not count")]


def _classes_caption(sample: Sample, names: Sequence[str]) -> str:
    truth, before, after = (names[int(index)][:16] for index in (sample.truth, sample.before, sample.after))
    return f"true {truth}: {before} -> {after}"


def sized(picture: np.ndarray) -> Image.Image:
    """The picture at the sheet's width; pixels stay squares, so that small images and maps are seen as they are."""
    image = Image.fromarray(picture)
    height = max(1, round(_SIDE * image.height / image.width))
    return image.resize((_SIDE, height), Image.Resampling.NEAREST)
