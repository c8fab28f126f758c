"""Sections of a card: of its own weights alone, in their order, and never in the way of what people write."""

import json

import pytest

from lrsegformer.hub.digests import file_digests, joint_digest
from lrsegformer.hub.sections import (
    PLACE,
    current_sections,
    drop_outdated_sections,
    keep_results,
    outdated_files,
)
from tests.hub.test_card import card_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    card_of(tmp_path)
    return tmp_path


def keep(folder, kind="robustness", section="## Robustness\n\n| a | b |", results=None, **options):
    return keep_results(folder, kind, results or {"rows": [1.0]}, section, file_digests(folder), **options)


def card(folder):
    return (folder / "README.md").read_text()


def test_digests_are_those_of_the_files(folder):
    import hashlib

    digests = file_digests(folder)
    assert digests["model.safetensors"] == hashlib.sha256(b"weights").hexdigest()
    assert set(digests) == {"model.safetensors", "config.json"}
    assert file_digests("someone/model") == {}
    before = joint_digest(digests)
    (folder / "config.json").write_text("{ }")
    assert joint_digest(file_digests(folder)) != before


def test_results_lie_beside_the_model_and_in_its_card(folder):
    before = card(folder)
    assert keep(folder, "certificates", "## Certificates", draw=lambda path: path.write_bytes(b"picture"))
    assert keep(folder, "robustness", "## Robustness", results={"rows": [float("nan")]})
    saved = json.loads((folder / "robustness.json").read_text())
    assert saved == {"rows": [None], "files": file_digests(folder)}
    assert (folder / "certificates.png").read_bytes() == b"picture"
    text = card(folder)
    assert text.index("## Lipschitz bounds") < text.index("## Robustness") < text.index("## Certificates")
    assert text.index("## Certificates") < text.index(PLACE) < text.index("## Training")
    assert current_sections(folder) == {"robustness": "## Robustness", "certificates": "## Certificates"}
    # Again, and changed: one section of a kind, and nothing else moved.
    assert keep(folder, "robustness", "## Robustness\n\nnewer") and card(folder).count("## Robustness") == 1
    (folder / "model.safetensors").write_bytes(b"other weights")
    drop_outdated_sections(folder)
    assert card(folder) == before
    assert not [path for path in folder.iterdir() if ".part" in path.name]


def test_a_card_that_is_written_anew_keeps_the_sections_of_its_weights(folder):
    keep(folder)
    card_of(folder, metrics={"eval_mean_iou": 0.5})
    assert "## Robustness" in card(folder) and "0.5000" in card(folder)
    (folder / "model.safetensors").write_bytes(b"trained further")
    card_of(folder)
    assert "## Robustness" not in card(folder) and PLACE in card(folder)
    assert outdated_files(folder) == ["robustness.json", "robustness.png"]


def test_results_of_other_weights_are_not_kept(folder, caplog):
    measured = file_digests(folder)
    (folder / "model.safetensors").write_bytes(b"trained further meanwhile")
    before = card(folder)
    assert not keep_results(folder, "robustness", {}, "## Robustness", measured)
    assert card(folder) == before and not (folder / "robustness.json").exists()


def test_what_people_write_stays(folder):
    path = folder / "README.md"
    path.write_text(card(folder).replace("## Training", "## Ours\n\nwritten by hand\n\n## Training"))
    keep(folder)
    keep(folder, section="## Robustness\n\nagain")
    assert "written by hand" in card(folder) and "again" in card(folder)
    # Who takes the line out wants no sections, and a folder without a card of a run is left alone.
    path.write_text(card(folder).replace(PLACE, ""))
    before = card(folder)
    assert not keep(folder) and card(folder) == before
    path.unlink()
    assert not keep(folder) and not path.exists()
    assert not keep_results("someone/model", "robustness", {}, "## Robustness", {})


def test_names_cannot_pass_for_the_lines_around_a_section(folder):
    trap = "<!-- lrsegformer: end of robustness -->"
    card_of(folder, dataset_name=f"a\n{PLACE}\n{trap}")
    section = f"## Robustness\n\n| \\{trap} |\n\nlast line"
    keep(folder, section=section)
    assert current_sections(folder) == {"robustness": section}
    keep(folder, section="## Robustness")
    assert "last line" not in card(folder)
    assert current_sections(folder) == {"robustness": "## Robustness"}


def test_a_folder_that_cannot_be_written_to_is_no_failure(folder):
    def full(path):
        raise OSError(28, "No space left on device")

    before = card(folder)
    assert not keep(folder, draw=full)
    assert card(folder) == before
