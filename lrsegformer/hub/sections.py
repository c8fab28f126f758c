"""
What was measured of a saved model after its run: files beside it, and sections of its card.

Each section stands between two lines that only a reader of the source sees, the first of which names the SHA-256 of
the model that was measured, so that a card shows results of its own weights alone. Whatever else people write into
the card stays as it is, and who takes the line [`PLACE`] out gets no sections.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from lrsegformer.errors import InputError
from lrsegformer.evaluation.scores import without_nan
from lrsegformer.hub.digests import file_digests, joint_digest
from lrsegformer.output_folder import claim
from lrsegformer.writing import write_whole, writing_to, written_aside

logger = logging.get_logger(__name__)

CARD = "README.md"
PLACE = "<!-- lrsegformer: what is measured later is put above this line -->"
# In the order of the card; each is also the name of its files.
KINDS = ("evaluation", "robustness", "certificates")
# Lines of their own, which no name that a table quotes can be.
_SECTION = re.compile(
    rf"^<!-- lrsegformer: ({'|'.join(KINDS)}) of ([0-9a-f]{{64}}) -->\n(.*?)\n<!-- lrsegformer: end of \1 -->\n+",
    flags=re.MULTILINE | re.DOTALL,
)


def keep_results(
    folder: str | os.PathLike,
    kind: str,
    results: Mapping[str, Any],
    section: str,
    measured: Mapping[str, str],
    draw: Callable[[Path], None] | None = None,
) -> bool:
    """
    Keep results beside the model and in its card, over earlier ones of the same kind.

    Writes `<kind>.json` (the results and `files`, the digests of what was measured), `<kind>.png`, and the card's
    section; each file is whole at any time.

    Args:
        folder (`str` or `os.PathLike`): of the model.
        kind (`str`): one of [`KINDS`].
        results (`dict`): for the JSON file; without names of this machine's folders.
        section (`str`): Markdown that begins with a heading, in which names from elsewhere are escaped.
        measured (`dict`): [`~lrsegformer.hub.digests.file_digests`] of the folder when the model was loaded.
        draw (`Callable`, *optional*): draws the figure into the file that it is given.

    Returns:
        `bool`: whether they were kept. Where the folder has no card with [`PLACE`], is no run's; where it holds other
        weights by now, or cannot be written to, a warning says so.
    """
    folder = Path(folder)
    if not _takes_sections(folder):
        return False
    if file_digests(folder) != measured:
        logger.warning(f"{folder / CARD} stays as it is: the folder holds another model by now than was measured.")
        return False
    try:
        names = f"{kind}.json", f"{kind}.png"
        claim(folder, [CARD], is_own=True, option="model")
        claim(folder, names, _measured_model(folder / names[0]) is not None, option="model")
        with writing_to(folder, "model"):
            if draw is not None:
                with written_aside(folder / names[1]) as unfinished:
                    draw(unfinished)
            text = json.dumps(without_nan({**results, "files": dict(measured)}), indent=1)
            write_whole(folder / names[0], text + "\n")
            card, digest = _read(folder), joint_digest(measured)
            sections = {**_sections_of(card, digest), kind: section.strip()}
            write_whole(folder / CARD, _with_sections(card, sections, digest))
    except InputError as error:
        logger.warning(f"{folder / CARD} does not get its section {kind}: {error}.")
        return False
    logger.info(f"Card: {folder / CARD} shows the {kind}.")
    return True


def current_sections(folder: str | os.PathLike) -> dict[str, str]:
    """The sections of a folder's card, by kind, that are of the model which the folder holds."""
    return _sections_of(_read(Path(folder)), joint_digest(file_digests(folder)))


def drop_outdated_sections(folder: str | os.PathLike) -> None:
    """Take those sections out of a folder's card that are of another model than the folder holds."""
    folder = Path(folder)
    if _takes_sections(folder):
        text, digest = _read(folder), joint_digest(file_digests(folder))
        fresh = _with_sections(text, _sections_of(text, digest), digest)
        if fresh != text:
            write_whole(folder / CARD, fresh)


def sections_text(folder: str | os.PathLike, sections: Mapping[str, str]) -> str:
    """Sections of the model that a folder holds as a card has them, and [`PLACE`]."""
    return _with_sections(f"\n{PLACE}\n", sections, joint_digest(file_digests(folder))).strip()


def outdated_files(folder: str | os.PathLike) -> list[str]:
    """Names of the files of results in a folder that are of another model than it holds."""
    folder = Path(folder)
    there = [kind for kind in KINDS if (folder / f"{kind}.json").is_file()]
    held = file_digests(folder) if there else {}
    outdated = [kind for kind in there if _measured_model(folder / f"{kind}.json") != held]
    return [name for kind in outdated for name in (f"{kind}.json", f"{kind}.png")]


def _sections_of(card: str, digest: str) -> dict[str, str]:
    return {kind: text for kind, of, text in _SECTION.findall(card) if of == digest}


def _measured_model(path: Path) -> Mapping[str, str] | None:
    """The digests of the model that a file of results is of; `None` where it is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _with_sections(card: str, sections: Mapping[str, str], digest: str) -> str:
    """The card with these sections and no others."""
    texts = [
        f"<!-- lrsegformer: {kind} of {digest} -->\n{sections[kind]}\n<!-- lrsegformer: end of {kind} -->\n\n"
        for kind in KINDS
        if kind in sections
    ]
    before, place, after = _SECTION.sub("", card).partition(f"\n{PLACE}\n")
    return f"{before}\n{''.join(texts)}{place[1:]}{after}"


def _takes_sections(folder: Path) -> bool:
    return f"\n{PLACE}\n" in _read(folder)


def _read(folder: Path) -> str:
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
