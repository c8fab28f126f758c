"""Pictures of the reports: taken out of their sheets, shown whole, or named where they cannot be read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsegformer.reporting.groups import arenas_of
from lrsegformer.reporting.pictures import viewers_of
from lrsegformer.reporting.reading.collection import collect


@pytest.fixture
def copied(world, tmp_path) -> Path:
    """A copy of the world that may be changed."""
    return Path(shutil.copytree(world, tmp_path / "world"))


def viewers_in(folder):
    left_out: list[str] = []
    (arena,) = arenas_of(collect([folder]))
    return viewers_of(arena, left_out), left_out


def test_an_image_has_its_views_in_order(world):
    viewers, left_out = viewers_in(world)
    assert left_out == []
    found = [(one.group.label, one.position, [view.kind for view in one.views]) for one in viewers]
    assert found == [
        ("baseline", 0, ["clean", "attacked"]),
        ("baseline", 1, ["clean", "attacked"]),
        ("orthogonal", 0, ["clean", "attacked", "certified"]),
        ("orthogonal", 1, ["clean", "attacked", "certified"]),
    ]
    views = {view.kind: [picture.title for picture in view.pictures] for view in viewers[2].views}
    assert views == {
        "clean": ["image", "prediction", "truth"],
        "attacked": ["attacked image", "prediction under attack", "truth"],
        "certified": ["image", "certified radius", "truth"],
    }
    # The largest radius of the norm.
    assert viewers[0].views[1].title == "Attacked: pgd linf 4/255"


def test_a_broken_picture_is_named_and_the_others_shown(copied):
    for sheet in (copied / "reports" / "robustness" / "sheets").iterdir():
        sheet.write_bytes(b"no picture")
    viewers, left_out = viewers_in(copied)
    assert [view.kind for view in viewers[0].views] == ["clean", "certified"]
    assert all("is no picture that can be read" in line for line in left_out) and len(left_out) == 3


def test_a_sheet_that_does_not_say_where_its_parts_lie_is_shown_whole(copied):
    for sheet in (copied / "reports" / "robustness" / "sheets").iterdir():
        with Image.open(sheet) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        Image.fromarray(pixels).save(sheet)
    viewers, left_out = viewers_in(copied)
    assert left_out == []
    (view,) = viewers[0].views
    assert view.kind == "attacked" and [one.title for one in view.pictures] == ["the picture of the report"]


def test_a_certificate_of_features_says_so(copied):
    path = copied / "reports" / "certificates" / "results.json"
    content = json.loads(path.read_text())
    for model in content["models"].values():
        model["reach"] = "feature space"
    path.write_text(json.dumps(content))
    viewers, _ = viewers_in(copied)
    assert viewers[2].views[-1].title == "Certified features"
