"""Where the single pictures lie in a sheet: kept in the PNG file, so that others can take them out again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from PIL import Image

# The key of the text in the PNG file.
PARTS_KEY = "lrsegformer-parts"


@dataclass(frozen=True)
class PicturePart:
    """
    A picture inside a sheet.

    Attributes:
        row (`int`): which image of the sheet it shows, from 0.
        name (`str`): what of it: `"clean"`, `"perturbed"`, `"truth"`, `"clean_prediction"`, `"perturbed_prediction"`,
            `"certified_radius"`, and the like.
        box (`tuple[int, int, int, int]`): left, top, right, bottom, in pixels of the sheet.
        caption (`str`): what stands over it.
    """

    row: int
    name: str
    box: tuple[int, int, int, int]
    caption: str = ""


def parts_text(parts: Sequence[PicturePart]) -> str:
    """The parts as the text that a PNG file keeps under [`PARTS_KEY`]."""
    return json.dumps([asdict(part) for part in parts])


def read_parts(path: str | os.PathLike) -> list[tuple[PicturePart, Image.Image]]:
    """
    The pictures of a sheet, each by itself; empty for a file that does not say where they lie.

    Raises:
        `OSError`: the file cannot be read, or is no image.
    """
    with Image.open(path) as opened:
        sheet = opened.convert("RGB")
        text = getattr(opened, "text", {}).get(PARTS_KEY)
    if text is None:
        return []
    try:
        parts = [
            PicturePart(int(part["row"]), str(part["name"]), tuple(map(int, part["box"])), str(part["caption"]))
            for part in json.loads(text)
        ]
    except (ValueError, KeyError, TypeError):
        return []
    frame = (0, 0, *sheet.size)
    return [(part, sheet.crop(part.box)) for part in parts if _is_inside(part.box, frame)]


def _is_inside(box: Sequence[int], frame: Sequence[int]) -> bool:
    left, top, right, bottom = box if len(box) == 4 else (0, 0, 0, 0)
    return frame[0] <= left < right <= frame[2] and frame[1] <= top < bottom <= frame[3]
