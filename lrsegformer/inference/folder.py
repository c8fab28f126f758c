"""The folder of a prediction: what it is of, what it holds already, and its files, each whole at any time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lrsegformer.errors import InputError
from lrsegformer.inference.files import InputFile, natural_key
from lrsegformer.inference.pictures import confidence_picture, overlay_with_legend, radius_picture
from lrsegformer.inference.prediction import ClassPrediction, MapPrediction
from lrsegformer.output_folder import claim, refuse_links
from lrsegformer.visible import csv_text, visible
from lrsegformer.writing import write_whole, written_aside

IDENTITY_FILE, DONE_FILE, UNREADABLE_FILE = "predict.json", "done.jsonl", "unreadable.txt"
TABLES = {"segmentation": "class_shares.csv", "classification": "predictions.csv"}
_OF_IMAGES = ("classes", "overlays", "confidence", "certified_radius")
# All that predictions are made of, for [`~lrsegformer.output_folder.claim`].
FILES = (
    *(IDENTITY_FILE, DONE_FILE, UNREADABLE_FILE, *TABLES.values()),
    *_OF_IMAGES,
)
TOP_CLASSES = 5
_JPEG = {"format": "JPEG", "quality": 92, "subsampling": 0}


class PredictionFolder:
    """
    Where predictions are written. An image is done once its line stands in `done.jsonl`, after its files.

    Args:
        folder (`str` or `Path`): made if need be.
        identity (`dict`): JSON values of all that decides the predictions, with the words for people as keys.
        known (`dict`): JSON values that are kept beside them: the model's name, classes, versions.

    Raises:
        [`~lrsegformer.errors.InputError`]: the folder holds predictions of another model or with other options, or
            files that are no predictions.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], known: Mapping[str, Any]):
        self.folder = Path(folder)
        self._check(identity)
        self._identity = {"identity": dict(identity), **known}
        self._done = self._read_done()

    def begin(self) -> None:
        """Make the folder, and say in it what it is of."""
        write_whole(self.folder / IDENTITY_FILE, json.dumps(self._identity, indent=1) + "\n")
        done = self.folder / DONE_FILE
        if done.is_file() and not done.read_bytes().endswith(b"\n"):
            with open(done, "ab") as file:  # what a crash cut short is a line of its own, which says nothing
                file.write(b"\n")

    def refuse_links(self, name: str) -> None:
        """
        Refuse a name whose prediction would be written outside of the folder.

        Raises:
            [`~lrsegformer.errors.InputError`]: for such a name, or a link on the way.
        """
        for kind in _OF_IMAGES:
            refuse_links(self.folder, f"{kind}/{name}")

    def is_done(self, file: InputFile, name: str) -> bool:
        """
        Whether the prediction of that name is there and of this file as it is now.

        Raises:
            [`~lrsegformer.errors.InputError`]: it is of another file.
        """
        done = self._done.get(name)
        if done is None:
            return False
        if done["stamp"] == stamp_of(file.path):
            return all((self.folder / made).is_file() for made in done["files"])
        if done["source"] != str(file.path):
            raise InputError(
                f"--output_dir {self.folder} holds the prediction of another file of this name ({done['source']}, and "
                f"now {file.path}): give another folder"
            )
        return False

    def write(self, file: InputFile, name: str, prediction: MapPrediction | ClassPrediction) -> None:
        """Write the files of a prediction, then its line."""
        made = self._write_maps(name, prediction) if isinstance(prediction, MapPrediction) else []
        line = {"name": name, "source": str(file.path), "stamp": stamp_of(file.path), "files": made}
        line |= {"size": list(prediction.image.size), **_results(prediction)}
        self._done[name] = line
        # One call, so that processes which share the folder do not write into each other's lines.
        with open(self.folder / DONE_FILE, "ab", buffering=0) as done:
            done.write(json.dumps(line).encode() + b"\n")

    def finish(self, unreadable: Sequence[str], class_names: Sequence[str], task: str) -> Path:
        """Write the table of everything that is done, and the list of what could not be read; gives the table."""
        lines = sorted(self._read_done().values(), key=lambda line: natural_key(line["name"]))
        rows = _share_rows(lines, class_names) if task == "segmentation" else _class_rows(lines, class_names)
        write_whole(self.folder / TABLES[task], csv_text(rows))
        if unreadable:
            write_whole(self.folder / UNREADABLE_FILE, "".join(f"{visible(line)}\n" for line in unreadable))
        else:
            (self.folder / UNREADABLE_FILE).unlink(missing_ok=True)
        return self.folder / TABLES[task]

    def _write_maps(self, name: str, prediction: MapPrediction) -> list[str]:
        pictures: dict[str, Callable[[BinaryIO], None]] = {
            f"classes/{name}.png": lambda file: prediction.class_map().save(file, format="PNG"),
            f"overlays/{name}.jpg": lambda file: overlay_with_legend(prediction).save(file, **_JPEG),
        }
        confidence, radius = prediction.confidence, prediction.certified_radius
        if confidence is not None:
            pictures[f"confidence/{name}.png"] = lambda file: confidence_picture(confidence).save(file, format="PNG")
        if radius is not None:
            pictures[f"certified_radius/{name}.npy"] = lambda file: np.save(file, radius)
            pictures[f"certified_radius/{name}.png"] = lambda file: radius_picture(radius).save(file, format="PNG")
        for made, save in pictures.items():
            with written_aside(self.folder / made) as unfinished, open(unfinished, "wb") as file:
                save(file)
        return list(pictures)

    def _check(self, identity: Mapping[str, Any]) -> None:
        path = self.folder / IDENTITY_FILE
        claim(self.folder, FILES, path.is_file())
        if not path.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise InputError(f"--output_dir {self.folder} holds other files: give another folder")
            return
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))["identity"]
            different = [key for key in identity if earlier.get(key) != identity[key]]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise InputError(f"{path} cannot be read as what predictions are of: give another --output_dir") from None
        if different:
            raise InputError(
                f"--output_dir {self.folder} holds predictions of another {' and '.join(different)}: give another "
                "folder, or the same model and options to continue"
            )

    def _read_done(self) -> dict[str, dict[str, Any]]:
        """The lines of what is done, by name; one that a crash cut short is none."""
        done: dict[str, dict[str, Any]] = {}
        path = self.folder / DONE_FILE
        if not path.is_file():
            return done
        for line in path.read_bytes().split(b"\n"):
            try:
                found = json.loads(line)
                done[found["name"]] = found
            except (ValueError, TypeError, KeyError):
                continue
        return done


def stamp_of(path: Path) -> list[int]:
    """Size in bytes and time of the last change, in ns: what tells that a file is still the same."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _results(prediction: MapPrediction | ClassPrediction) -> dict[str, Any]:
    if isinstance(prediction, MapPrediction):
        return {"pixels": prediction.pixel_counts().tolist()}
    radius = prediction.certified_radius
    return {
        "top": [[name, round(share, 6)] for name, share in prediction.top(TOP_CLASSES)],
        # Infinity, where no other class can win, is no JSON.
        **({} if radius is None else {"certified_radius_l2": repr(radius)}),
    }


def _share_rows(lines: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[list[Any]]:
    rows: list[list[Any]] = [["image", "width", "height", *class_names]]
    for line in lines:
        total = sum(line["pixels"])
        rows.append([line["name"], *line["size"], *(f"{count / total:.6f}" for count in line["pixels"])])
    return rows


def _class_rows(lines: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[list[Any]]:
    count = min(TOP_CLASSES, len(class_names))
    numbers = range(1, count + 1)
    header = ["image", *(column for number in numbers for column in (f"class_{number}", f"probability_{number}"))]
    with_radius = any("certified_radius_l2" in line for line in lines)
    rows: list[list[Any]] = [header + ["certified_radius_l2"] * with_radius]
    for line in lines:
        row = [line["name"], *(value for name, share in line["top"] for value in (name, f"{share:.6f}"))]
        rows.append(row + [line.get("certified_radius_l2", "")] * with_radius)
    return rows
