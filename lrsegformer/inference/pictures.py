"""Pictures of predictions: overlays with a legend, and maps of confidence and of certified radii."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lrsegformer.inference.prediction import MapPrediction, colours_of
from lrsegformer.visible import visible

# A legend names so many classes at most, the commonest first.
LEGEND_ENTRIES = 24
# Where the colours of the maps of radii end, in 1/255: the same for all images, so that those of a video compare.
LARGEST_SHOWN_RADIUS = 180.0
_LEAST_FONT, _LARGEST_FONT = 11, 40
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def overlay_with_legend(prediction: MapPrediction) -> Image.Image:
    """The overlay, and below it the classes that occur with their colours and shares of the pixels."""
    counts = prediction.pixel_counts()
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    colours = colours_of(len(prediction.class_names))
    entries = [
        (
            tuple(colours[index].tolist()),
            f"{visible(prediction.class_names[index])}: {_percent(counts[index], counts.sum())}",
        )
        for index in order[:LEGEND_ENTRIES]
    ]
    if len(order) > LEGEND_ENTRIES:
        entries.append((_WHITE, f"and {len(order) - LEGEND_ENTRIES} more"))
    return _stacked(prediction.overlay(), _legend(entries, prediction.image.width))


def confidence_picture(confidence: np.ndarray) -> Image.Image:
    """Grey: 255 times the probability, rounded."""
    return Image.fromarray((confidence * 255).round().astype(np.uint8))


def radius_picture(radius: np.ndarray) -> Image.Image:
    """The map in colours from 0 to [`LARGEST_SHOWN_RADIUS`], and below it the bar that says what they mean."""
    level = (radius.astype(np.float64) * 255 / LARGEST_SHOWN_RADIUS).clip(0, 1)
    picture = Image.fromarray(_viridis()[(level * 255).astype(np.uint8)])
    return _stacked(picture, _bar(picture.width))


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return f"{share:.0f} %" if share >= 1 else "< 1 %"


def _stacked(upper: Image.Image, lower: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), _WHITE)
    sheet.paste(upper, (0, 0))
    sheet.paste(lower, (0, upper.height))
    return sheet


def _font_of(width: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(min(_LARGEST_FONT, max(_LEAST_FONT, width // 40)))


def _legend(entries: list[tuple[tuple[int, ...], str]], width: int) -> Image.Image:
    """Swatches with words, in as many columns as the picture is wide enough for."""
    font = _font_of(width)
    line = round(1.6 * font.size)
    column = max(round(font.getlength(words)) for _, words in entries) + 2 * line
    columns = max(1, min(width // column, len(entries)))
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (max(width, column), rows * line + line // 2), _WHITE)
    draw = ImageDraw.Draw(legend)
    for number, (colour, words) in enumerate(entries):
        left = number % columns * (legend.width // columns) + line // 3
        top = number // columns * line + line // 4
        draw.rectangle((left, top + line // 5, left + line // 2, top + line - line // 5), colour)
        draw.text((left + line, top + line // 2), words, _BLACK, font, anchor="lm")
    return legend


def _bar(width: int) -> Image.Image:
    font = _font_of(width)
    words = f"certified radius, l2 in 1/255: 0 to {LARGEST_SHOWN_RADIUS:g} and above"
    line = round(1.6 * font.size)
    bar = Image.new("RGB", (max(width, round(font.getlength(words)) + line), 2 * line), _WHITE)
    colours = Image.fromarray(_viridis()[None]).resize((bar.width, line // 2))
    bar.paste(colours, (0, line // 4))
    ImageDraw.Draw(bar).text((bar.width // 2, round(1.35 * line)), words, _BLACK, font, anchor="mm")
    return bar


@lru_cache(maxsize=1)
def _viridis() -> np.ndarray:
    from matplotlib import colormaps

    return (colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
