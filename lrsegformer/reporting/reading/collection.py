"""Everything that was found, read once; what cannot be read is said in a line, and the rest goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lrsegformer.errors import InputError
from lrsegformer.reporting.reading.reports import (
    Evaluation,
    Matrix,
    Report,
    read_evaluation,
    read_matrix,
    read_report,
)
from lrsegformer.reporting.reading.runs import Run, read_run
from lrsegformer.reporting.reading.sources import (
    EVALUATION_FILE,
    MATRIX_FILE,
    RUN_FILE,
    Source,
    find_sources,
    read_json,
    unfinished_runs,
)


@dataclass
class Collection:
    """
    What a page is made of.

    Attributes:
        folders (`list[str]`): as they were given.
        sources (`list[Source]`): the files that were read.
        left_out (`list[str]`): a line for each file or folder that was not used, or not in full.
    """

    folders: list[str]
    sources: list[Source] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The folders by their names."""
        return ", ".join(dict.fromkeys(Path(os.path.abspath(folder)).name for folder in self.folders))

    def _read(self, source: Source) -> None:
        content = read_json(source.path)
        if source.path.name == RUN_FILE:
            run, missing = read_run(source, content)
            self.runs.append(run)
            self.left_out += missing
        elif source.path.name == EVALUATION_FILE:
            self.evaluations.append(read_evaluation(source, content))
        elif source.path.name == MATRIX_FILE:
            self.matrices.append(read_matrix(source, content))
        else:
            self.reports.append(read_report(source, content))


def collect(folders: Sequence[str | os.PathLike]) -> Collection:
    """
    Read what lies below the folders.

    A file that is no JSON, or not of the form that this version writes, is left out with a line that names it: one
    broken report of many must not cost the page.

    Raises:
        [`~lrsegformer.errors.InputError`]: a folder is missing, or nothing below them can be used.
    """
    collection = Collection([str(folder) for folder in folders])
    found = find_sources(folders)
    for source in found:
        try:
            collection._read(source)
        except KeyError as error:
            collection.left_out.append(f"{source.shown}: lacks {error}, so it is no file of this version; left out")
        except (TypeError, AttributeError, IndexError):
            collection.left_out.append(f"{source.shown}: is not of the form that this version writes; left out")
        except ValueError as error:
            collection.left_out.append(f"{source.shown}: {error}; left out")
        else:
            collection.sources.append(source)
    if not (collection.runs or collection.reports or collection.evaluations):
        where = ", ".join(collection.folders)
        reason = f" ({collection.left_out[0]})" if collection.left_out else ""
        raise InputError(
            f"{where}: no finished run ({RUN_FILE}), report (results.json) or {EVALUATION_FILE} below{reason}; give "
            "the folders that runs and benches wrote"
        )
    unfinished = unfinished_runs(folders)
    collection.left_out += [f"{name}: begun, without scores yet; left out" for name in unfinished]
    return collection
