"""Images of the reports, to be flipped between clean, attacked and certified; small, and inside the page."""

from __future__ import annotations

import base64
import glob
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lrsegformer.choices import NORMS_IN_255THS
from lrsegformer.evaluation.picture_parts import read_parts
from lrsegformer.reporting.groups import Arena, Group, Member
from lrsegformer.reporting.reading.reports import ATTACK, Measured, Report, Setting
from lrsegformer.reporting.tables.guarantees import FEATURES
from lrsegformer.reporting.tables.perturbed import norm_text, radius_text
from lrsegformer.reporting.tables.scores import MAIN

# A page with a picture of everything would be as large as the reports: of each group the first model's.
IMAGES_OF_A_MODEL = 2
ATTACKS_OF_A_NORM = 1
_SIDE, _WHOLE_SIDE = 320, 960
_PHOTOGRAPHS = ("clean", "perturbed", "change")
_SHEETS, _PICTURES = "sheets", "pictures"
# Where a part stands, and what is written under it.
_SLOTS = {
    "clean": ("clean", "clean_prediction", "truth"),
    "attacked": ("perturbed", "perturbed_prediction", "truth"),
    "certified": ("clean", "certified_radius", "truth"),
    "smoothed": ("clean", "certified_radius", "truth"),
}
_TITLES = {
    "clean": "image",
    "clean_prediction": "prediction",
    "truth": "truth",
    "perturbed": "attacked image",
    "perturbed_prediction": "prediction under attack",
    "certified_radius": "certified radius",
    "whole": "the picture of the report",
}


@dataclass(frozen=True)
class Picture:
    """An image inside the page: `uri` holds its bytes."""

    uri: str
    width: int
    height: int
    title: str
    caption: str = ""


@dataclass
class View:
    """What is seen at once: `kind` is clean, attacked, certified or smoothed, and `title` what its button says."""

    kind: str
    title: str
    pictures: list[Picture]
    source: str


@dataclass
class Viewer:
    """One image and one model, in every view that the reports hold."""

    group: Group
    member: Member
    position: int
    views: list[View] = field(default_factory=list)


Parts = dict[str, Picture]


def viewers_of(arena: Arena, left_out: list[str]) -> list[Viewer]:
    """
    The pictures of the reports of an arena; a line is added to `left_out` for each file that cannot be read.

    An image is told by its number in the seeded subset, so views of one image come from reports on the same subset.
    """
    viewers = []
    for setting in dict.fromkeys(report.setting for report in arena.reports):
        for group in arena.groups:
            viewers += _viewers_of_group(arena, setting, group, left_out)
    return viewers


def _viewers_of_group(arena: Arena, setting: Setting, group: Group, left_out: list[str]) -> list[Viewer]:
    for member in group.members:
        found: dict[int, Viewer] = {}
        parts: dict[int, Parts] = {}
        for view, source, by_image in _views(arena, setting, member, left_out):
            for position, own in sorted(by_image.items())[:IMAGES_OF_A_MODEL]:
                viewer = found.setdefault(position, Viewer(group, member, position))
                shared = parts.setdefault(position, {})
                for name, picture in own.items():
                    shared.setdefault(name, picture)
                if view[1] not in [one.title for one in viewer.views]:
                    viewer.views.append(View(view[0], view[1], list(own.items()), source))
        for position, viewer in found.items():
            _fill(viewer, parts[position])
        if found:
            return [found[position] for position in sorted(found)]
    return []


def _fill(viewer: Viewer, shared: Parts) -> None:
    """Bring the parts of each view to their places, and put the clean view first."""
    views = []
    if "clean" in shared and any(kind != "whole" for kind in shared):
        first = viewer.views[0]
        views.append(View("clean", "Clean", _placed("clean", shared, {}), first.source))
    for view in viewer.views:
        own = dict(view.pictures)
        if "whole" in own:
            views.append(View(view.kind, view.title, [own["whole"]], view.source))
        else:
            views.append(View(view.kind, view.title, _placed(view.kind, own, shared), view.source))
    viewer.views = sorted((view for view in views if view.pictures), key=lambda view: list(_SLOTS).index(view.kind))


def _placed(kind: str, own: Parts, shared: Parts) -> list[Picture]:
    held = {**shared, **own}
    return [held[name] for name in _SLOTS[kind] if name in held]


def _views(
    arena: Arena, setting: Setting, member: Member, left_out: list[str]
) -> Iterator[tuple[tuple[str, str], str, dict[int, Parts]]]:
    """(kind, title), file and the parts of each image: attacks, then certificates, those of newer reports first."""
    for report in sorted(arena.reports, key=lambda report: -report.source.modified):
        if report.setting != setting:
            continue
        for label in report.labels:
            if arena.member_of(report, label) is not member:
                continue
            for row in _shown_attacks(report, label, MAIN[arena.task]):
                path = _sheet(report, row)
                if path is not None:
                    title = f"Attacked: {row.name} {norm_text(row.norm)} {radius_text(row.norm, row.radius)}"
                    yield ("attacked", title), path.name, _parts_of(path, 0, left_out)
            for kind, by_image in _certified(report, label, left_out).items():
                yield (kind, _titled(report, label, kind)), f"{_PICTURES} of {report.source.shown}", by_image


def _titled(report: Report, label: str, kind: str) -> str:
    """What the button of a certificate says: one of features is none of pixels."""
    of_features = kind == "certified" and report.content["models"][label].get("reach") == FEATURES
    return "Certified features" if of_features else kind.capitalize()


def _shown_attacks(report: Report, label: str, score: str) -> list[Measured]:
    """Of each norm the attack that left least at the largest radius that has a sheet."""
    rows = [row for row in report.measured if row.model == label and row.kind == ATTACK and row.radius is not None]
    rows = [row for row in rows if _sheet(report, row) is not None]
    shown = []
    for norm in dict.fromkeys(row.norm for row in rows):
        own = [row for row in rows if row.norm == norm]
        shown += sorted(own, key=lambda row: (-row.radius, row.scores.get(score, 1.0)))[:ATTACKS_OF_A_NORM]
    return shown


def _sheet(report: Report, row: Measured) -> Path | None:
    """The sheet of an attack: named in the bench's rows, and beside certificates found by model and condition."""
    folder = report.source.folder / _SHEETS
    if row.sheet is not None:
        path = folder / Path(str(row.sheet)).name
        return path if path.is_file() else None
    radius = 255 * row.radius if row.norm in NORMS_IN_255THS else row.radius
    start = f"{row.model}-{row.name}-{row.norm}-{radius:g}-".replace("/", "-")
    found = sorted(glob.glob(f"{glob.escape(str(folder / start))}??????.png"))
    return Path(found[0]) if found else None


def _certified(report: Report, label: str, left_out: list[str]) -> dict[str, dict[int, Parts]]:
    names = ((report.content.get("models") or {}).get(label) or {}).get("pictures") or ()
    found: dict[str, dict[int, Parts]] = {}
    for name in names:
        path = report.source.folder / _PICTURES / Path(str(name)).name
        position = re.search(r"-(\d+)\.png$", path.name)
        if position and path.is_file():
            kind = "smoothed" if path.name.endswith(f"-smoothing-{position[1]}.png") else "certified"
            for parts in _parts_of(path, 0, left_out).values():
                found.setdefault(kind, {})[int(position[1])] = parts
    return found


def _parts_of(path: Path, whole_at: int, left_out: list[str]) -> dict[int, Parts]:
    """By row the pictures of a sheet; a sheet that does not say where they lie is one picture."""
    try:
        found = read_parts(path)
        if not found:
            with Image.open(path) as opened:
                return {whole_at: {"whole": _embedded(opened.convert("RGB"), "whole", "", _WHOLE_SIDE)}}
    except (OSError, ValueError) as error:
        left_out.append(f"{path.parent.name}/{path.name}: is no picture that can be read ({type(error).__name__})")
        return {}
    rows: dict[int, Parts] = {}
    for part, image in found:
        rows.setdefault(part.row, {})[part.name] = _embedded(image, part.name, part.caption, _SIDE)
    return rows


def _embedded(image: Image.Image, name: str, caption: str, side: int) -> Picture:
    """Photographs as JPEG; maps, which have few colours and sharp edges, as PNG with a palette."""
    if image.width > side:
        height = max(1, round(image.height * side / image.width))
        image = image.resize((side, height), _resampling(name))
    file = io.BytesIO()
    if name in _PHOTOGRAPHS or name == "whole":
        image.save(file, "JPEG", quality=82)
        kind = "jpeg"
    else:
        image.quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        kind = "png"
    text = base64.b64encode(file.getvalue()).decode()
    if name.endswith("_prediction"):  # "of clean: 81.0 % right"
        caption = caption.partition(": ")[2]
    return Picture(f"data:image/{kind};base64,{text}", image.width, image.height, _TITLES.get(name, name), caption)


def _resampling(name: str) -> Image.Resampling:
    return (
        Image.Resampling.LANCZOS if name in (*_PHOTOGRAPHS, "whole", "certified_radius") else Image.Resampling.NEAREST
    )
