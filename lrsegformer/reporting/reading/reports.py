"""Reports of the robustness bench and of certificates, evaluations by protocol, and matrices of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrsegformer.choices import NORMS_IN_255THS
from lrsegformer.reporting.reading.sources import STARTED_FILE, Source, number
from lrsegformer.text_files import read_mapping

CLEAN, ATTACK, CORRUPTION, SHIFTED, TRAIN = "clean", "attack", "corruption", "shifted", "train"


@dataclass(frozen=True)
class Setting:
    """What scores have to share to be compared: the task, the data, which of its images, and at which size."""

    task: str
    dataset: str
    images: int
    of: int
    seed: int
    score_at: str

    @property
    def words(self) -> str:
        which = f"all {self.of} images" if self.images == self.of else f"{self.images} of {self.of} images"
        at = f", scored at {self.score_at} size" if self.task == "segmentation" else ""
        return f"{which} of {self.dataset} (seed {self.seed}){at}"


@dataclass(frozen=True)
class Measured:
    """A model's scores under one condition, by the bench or beside a certificate; radii in pixels from 0 to 1."""

    model: str
    kind: str
    name: str
    norm: str | None
    radius: float | None
    severity: int | None
    targeted: bool
    steps: int | None
    scores: Mapping[str, float]
    seconds: float | None
    sheet: str | None


@dataclass(frozen=True)
class Certified:
    """A model's guaranteed scores at one radius, in pixels from 0 to 1 or in the norm of the features."""

    model: str
    method: str
    reach: str | None
    norm: str
    radius: float
    probability: float | None
    clean: Mapping[str, float]
    attacked: Mapping[str, Mapping[str, float]]
    certified: Mapping[str, float]
    share: float | None


@dataclass(frozen=True)
class Report:
    """
    A `results.json` of the bench or of certificates.

    Attributes:
        source (`Source`): the file.
        setting (`Setting`): what all its scores share.
        names (`dict`): label of a model -> folder or Hub id that the command was given, where `run.yaml` says.
        measured (`list[Measured]`), certified (`list[Certified]`): its rows.
        content (`dict`): all that the file holds.
    """

    source: Source
    setting: Setting
    names: Mapping[str, str]
    measured: Sequence[Measured]
    certified: Sequence[Certified]
    content: Mapping[str, Any]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in [*self.measured, *self.certified]))


def read_report(source: Source, content: Any) -> Report:
    """
    Either report.

    Raises:
        `KeyError`, `TypeError`, `ValueError`: it is not as this version writes it.
    """
    setting = Setting(
        str(content["task"]),
        str(content["dataset"]),
        *(int(content[name]) for name in ("images", "of", "seed")),
        str(content["score_at"]),
    )
    options = _options(source)
    if content.get("report") == "certificates":
        certified = [_certified(row) for row in content["rows"]]
        measured = [attack for row in certified for attack in _beside(row, options)]
        labels = list(content["models"])
    else:
        content["corruption_summary"], content["reliability"], content["gradient_masking"], content["bounds"]
        certified, measured = [], [_measured(row) for row in content["rows"]]
        labels = list(dict.fromkeys(row.model for row in measured))
    return Report(source, setting, _names(labels, options), measured, certified, content)


def _options(source: Source) -> Mapping[str, Any]:
    try:
        return read_mapping(source.folder / STARTED_FILE)
    except ValueError:
        return {}


def _names(labels: Sequence[str], options: Mapping[str, Any]) -> dict[str, str]:
    """Which of the models that a command was given has which label: the end of its name, or all of it."""
    models = options.get("models") or []
    given = [str(name) for name in (models if isinstance(models, list) else [models])]
    found = {}
    for label in labels:
        fitting = [name for name in given if name == label or name.rstrip("/").endswith(f"/{label}")]
        if len(fitting) == 1:
            found[label] = fitting[0]
    return found


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in ((name, number(value)) for name, value in row.items()) if value is not None}


_NO_SCORES = ("radius", "severity", "steps", "restarts", "targeted", "images", "of", "seed", "seconds", "processes")


def _measured(row: Mapping[str, Any]) -> Measured:
    radius = number(row["radius"])
    if radius is not None and row["norm"] in NORMS_IN_255THS:
        radius /= 255
    return Measured(
        model=str(row["model"]),
        kind=str(row["kind"]),
        name=str(row["name"]),
        norm=row["norm"],
        radius=radius,
        severity=row["severity"],
        targeted=bool(row["targeted"]),
        steps=row["steps"],
        scores=_scores({name: value for name, value in row.items() if name not in _NO_SCORES}),
        seconds=number(row.get("seconds")),
        sheet=row.get("sheet"),
    )


def _certified(row: Mapping[str, Any]) -> Certified:
    names = ("accuracy", "mean_iou")
    return Certified(
        model=str(row["model"]),
        method=str(row["method"]),
        reach=row["reach"],
        norm=str(row["norm"]),
        radius=float(row["radius"]),
        probability=number(row["probability"]),
        clean=_scores({name: row.get(f"clean_{name}") for name in names}),
        attacked={str(name): _scores(found) for name, found in row["attacked"].items()},
        certified=_scores({name: row.get(f"certified_{name}") for name in names}),
        share=number(row.get("certified_share")),
    )


def _beside(row: Certified, options: Mapping[str, Any]) -> list[Measured]:
    """The attacks that ran beside a certificate, and the clean score that they start from."""
    if not row.attacked or row.reach == "smoothed network":
        return []
    nothing = {"norm": None, "radius": None, "severity": None, "targeted": False, "steps": None}
    end = {"seconds": None, "sheet": None}
    attacks = [
        Measured(
            row.model, ATTACK, name, row.norm, row.radius, None, False, options.get("steps"), scores=scores, **end
        )
        for name, scores in row.attacked.items()
    ]
    return [Measured(row.model, CLEAN, "", scores=row.clean, **nothing, **end), *attacks]


@dataclass(frozen=True)
class Evaluation:
    """An `evaluation.json`: scores of one model by protocol and size."""

    source: Source
    model: str
    task: str
    dataset: str
    images: int | None
    scores: Mapping[tuple[str, str], Mapping[str, float]]


def read_evaluation(source: Source, content: Any) -> Evaluation:
    """
    Raises:
        `KeyError`, `TypeError`, `ValueError`, `AttributeError`: it is not as this version writes it.
    """
    scores = {
        (str(protocol), str(size)): _scores(found)
        for protocol, sizes in content["protocols"].items()
        for size, found in sizes.items()
    }
    images = number(content.get("num_images"))
    return Evaluation(
        source,
        str(content["model"]),
        str(content["task"]),
        str(content["dataset"]),
        None if images is None else int(images),
        scores,
    )


@dataclass(frozen=True)
class Matrix:
    """A `matrix.json`: the cells of an experiment of many runs."""

    source: Source
    cells: Sequence[Mapping[str, Any]]


def read_matrix(source: Source, content: Any) -> Matrix:
    """
    Raises:
        `KeyError`, `TypeError`: it is not as this version writes it.
    """
    for cell in content:
        cell["name"], cell["status"]
    return Matrix(source, content)
