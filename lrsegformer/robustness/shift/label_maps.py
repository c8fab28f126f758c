"""From the classes of one data set to those of a model: mapping files, wnids, and logits of a subset of classes."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from lrsegformer.data.examples import Example, ExampleSource
from lrsegformer.data.imagenet import NUM_CLASSES, SUBSETS, imagenet_indices, subset_indices
from lrsegformer.data.labels import LabelSpace
from lrsegformer.errors import InputError
from lrsegformer.text_files import parse_json, read_text

IGNORE = "ignore"
_WNID = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"(?:class_)?(\d+)")  # `class_7` is what integer columns on the Hub are named by


@dataclass(frozen=True)
class ClassMap:
    """
    The model's class for each class of a data set; predictions are restricted to these.

    Args:
        indices (`tuple[int, ...]`): index of the logit, in the order of the data set's classes.
        num_model_labels (`int`): number of logits.

    Raises:
        [`~lrsegformer.errors.InputError`]: an index is not a class of the model, or stands twice.
    """

    indices: tuple[int, ...]
    num_model_labels: int

    def __post_init__(self):
        for index, count in Counter(self.indices).items():
            if not 0 <= index < self.num_model_labels:
                raise InputError(f"class map: {index} is no class of the model (0..{self.num_model_labels - 1})")
            if count > 1:
                raise InputError(
                    f"class map: {count} classes of the data set are class {index} of the model; ignore all but one"
                )

    def restrict(self, logits: Tensor) -> Tensor:
        """
        The logits of the data set's classes, in their order; the largest is the prediction within the subset.

        Args:
            logits (`torch.Tensor` of shape `(batch, num_model_labels, ...)`).

        Returns:
            `torch.Tensor` of shape `(batch, len(indices), ...)`, differentiable.

        Raises:
            [`~lrsegformer.errors.InputError`]: the model has another number of classes.
        """
        if logits.shape[1] != self.num_model_labels:
            raise InputError(
                f"class map: made for {self.num_model_labels} classes, but the model has {logits.shape[1]}; make it "
                "from this model's label names"
            )
        return logits[:, list(self.indices)]


def read_mapping(
    path: str | Path, old_names: Sequence[str], new_names: Sequence[str], where: str
) -> tuple[int | None, ...]:
    """
    Reads a class-mapping file: a JSON object, or a CSV file of two columns (a first line `old,new` is skipped).

    On both sides a class stands by name or by index; a number is taken as an index where it is nobody's name. `ignore`
    on the right leaves the class out.

    Args:
        path (`str` or `Path`): the file, `.json` or `.csv`.
        old_names (`Sequence[str]`): classes of the data set, in the order of the index.
        new_names (`Sequence[str]`): classes of the model, in the order of the index.
        where (`str`): the data set, for messages.

    Returns:
        `tuple`: for each old class the new index, or `None` to leave it out.

    Raises:
        [`~lrsegformer.errors.InputError`]: the file cannot be read, names an unknown class, names one twice, lacks
            one, or ignores all.
    """
    path = Path(path).expanduser()
    mapped: dict[int, int | None] = {}
    for old, new in _pairs(path):
        index = _find(old, old_names, f"{path}: {old!r} is no class of {where}")
        if index in mapped:
            raise InputError(f"{path}: the class {old_names[index]!r} of {where} stands twice; keep one line")
        is_left_out = isinstance(new, str) and new.strip().lower() == IGNORE
        mapped[index] = None if is_left_out else _find(new, new_names, f"{path}: {new!r} is no class of the model")
    missing = [name for index, name in enumerate(old_names) if index not in mapped]
    if missing:
        raise InputError(
            f"{path}: nothing for {len(missing)} class(es) of {where}, first {missing[0]!r}; add a line, with "
            f"`{IGNORE}` to leave it out"
        )
    if all(new is None for new in mapped.values()):
        raise InputError(f"{path}: every class of {where} is ignored; map at least one")
    return tuple(mapped[index] for index in range(len(old_names)))


def match_classes(
    names: Sequence[str], model_names: Sequence[str], where: str, synsets: str | Path | None = None
) -> tuple[int, ...]:
    """
    Finds the model's class for each class of a data set, where that is certain.

    Tried in this order: wnids looked up in `synsets`; names that are the model's own; for a model of 1000 classes,
    which are taken to be ImageNet's, wnids of these; as many wnids as the model has classes (their sorted order is the
    index); as many numbers as the model has classes; for `imagenet-a` and `imagenet-r` the numbers 0 to 199, which
    count their classes by sorted wnid.

    Args:
        names (`Sequence[str]`): class names or folder names of the data set.
        model_names (`Sequence[str]`): label names of the model, in the order of the index.
        where (`str`): the data set, for messages.
        synsets (`str` or `Path`, *optional*):
            A file whose line i begins with the wnid of the model's class i, as ImageNet's `LOC_synset_mapping.txt`.

    Raises:
        [`~lrsegformer.errors.InputError`]: a class has no counterpart, or none that is certain.
    """
    if synsets is not None:
        by_wnid = _read_synsets(Path(synsets).expanduser(), len(model_names))
        missing = [name for name in names if name not in by_wnid]
        if missing:
            raise InputError(f"{where}: the class {missing[0]!r} is not in {synsets}; name class folders by wnid")
        return tuple(by_wnid[name] for name in names)
    times = Counter(model_names)
    if all(times[name] == 1 for name in names):
        return _places(names, model_names)
    is_imagenet = len(model_names) == NUM_CLASSES
    if is_imagenet and all(name in imagenet_indices() for name in names):
        return tuple(imagenet_indices()[name] for name in names)
    if len(names) == len(model_names) and all(_WNID.fullmatch(name) for name in names):
        return _places(names, sorted(names))
    numbers = [int(match[1]) for name in names if (match := _NUMBER.fullmatch(name))]
    if sorted(numbers) == list(range(len(names))):
        if len(names) == len(model_names):
            return tuple(numbers)
        if is_imagenet and where in SUBSETS and len(names) == len(subset_indices(where)):
            return tuple(subset_indices(where)[number] for number in numbers)
    unmatched = next(name for name in names if times[name] != 1)
    raise InputError(
        f"{where}: its {len(names)} classes (such as {unmatched!r}) are not known by name among the model's "
        f"{len(model_names)}; give a class-mapping file, or for folders named by wnid a file of the model's wnids"
    )


class MappedSource:
    """
    The examples of a source with their classes replaced, and void where a mask's class is left out.

    Args:
        source ([`~lrsegformer.data.examples.ExampleSource`]): the examples.
        label_space ([`~lrsegformer.data.LabelSpace`]): what its raw labels mean.
        mapping (`Sequence[int | None]`): the new class of each old one, as [`read_mapping`] gives it.
        names (`Sequence[str]`): the new classes.

    Attributes:
        new_space ([`~lrsegformer.data.LabelSpace`]): what the new labels mean.
    """

    def __init__(
        self, source: ExampleSource, label_space: LabelSpace, mapping: Sequence[int | None], names: Sequence[str]
    ):
        # Where 255 may be a class, the value after the last class stands for void.
        void = 255 if len(names) <= 255 else len(names)
        self.source, self.label_space = source, label_space
        self.new_space = LabelSpace(tuple(names), ignore_label=void)
        self.table = np.array([void if new is None else new for new in mapping] + [void], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        if isinstance(example.target, np.ndarray):
            classes = self.label_space.encode_mask(example.target, example.name).astype(np.int32)
            classes[classes == self.label_space.ignore_index] = len(self.table) - 1
            return Example(example.image, self.table[classes], example.name)
        old = self.label_space.encode_class(int(example.target), example.name)
        return Example(example.image, int(self.table[old]), example.name)


def _pairs(path: Path) -> list[tuple[object, object]]:
    try:
        text = read_text(path)
    except ValueError as error:
        raise InputError(f"{path}: the class mapping {error}; give a JSON or CSV file") from None
    if path.suffix.lower() == ".json":
        try:
            # As pairs, so that a key that stands twice is not lost.
            pairs = parse_json(text, lambda pairs: pairs)
        except ValueError as error:
            raise InputError(f"{path}: the class mapping {error}; correct it") from None
        if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
            raise InputError(f'{path}: the class mapping is no JSON object; write {{"old class": "new class", ...}}')
        return pairs
    rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if any(cell.strip() for cell in row)]
    if rows and [cell.strip().lower() for cell in rows[0]] == ["old", "new"]:
        rows = rows[1:]
    for row in rows:
        if len(row) != 2:
            raise InputError(f"{path}: the line {','.join(row)!r} has {len(row)} columns; write `old,new`")
    return [(row[0], row[1]) for row in rows]


def _places(names: Sequence[str], order: Sequence[str]) -> tuple[int, ...]:
    place = {name: index for index, name in enumerate(order)}
    return tuple(place[name] for name in names)


def _find(label: object, names: Sequence[str], what: str) -> int:
    if isinstance(label, str):
        label = label.strip()
        if list(names).count(label) == 1:
            return list(names).index(label)
        if label.isdecimal():
            label = int(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    raise InputError(f"{what}; give one of its names, an index from 0 to {len(names) - 1}, or `{IGNORE}` on the right")


def _read_synsets(path: Path, count: int) -> dict[str, int]:
    try:
        lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: the list of wnids {error}; give a text file") from None
    wnids = [words[0].rstrip(",") for words in lines]
    wrong = [wnid for wnid in wnids if not _WNID.fullmatch(wnid)]
    if wrong or len(set(wnids)) != count or len(wnids) != count:
        reason = f"{wrong[0]!r} is no wnid" if wrong else f"{len(set(wnids))} different wnids in {len(wnids)} lines"
        raise InputError(f"{path}: {reason}; the model needs {count} lines, each beginning with its class's wnid")
    return {wnid: index for index, wnid in enumerate(wnids)}
