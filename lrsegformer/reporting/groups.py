"""Which models belong together: runs that differ in the seed alone, and the models of reports that are these runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrsegformer.choices import NO_STRATEGY
from lrsegformer.reporting.reading.collection import Collection
from lrsegformer.reporting.reading.reports import Certified, Evaluation, Measured, Report
from lrsegformer.reporting.reading.runs import INCIDENTAL, Run

_LABELLED = 3
_USUAL_SCOPE = "head"
# Where data lie, and what they hold: the same for all models of an arena, or told in a row of its own.
_OF_THE_DATA = ("dataset", "train_", "validation_", "image_", "mask_", "class_names", "ignore_label", "config")


@dataclass(eq=False)
class Member:
    """One trained model: a run, or a model that only reports know. `name` is what its folder is called."""

    name: str
    run: Run | None = None


@dataclass(eq=False)
class Group:
    """
    Models that differ in nothing but the seed.

    Attributes:
        label (`str`): what tells it from the other groups of its arena.
        letter (`str`): the mark that stands for it in charts and tables.
        tone (`int`): number of its colour in charts of measured numbers, from 1.
        members (`list[Member]`): at least one.
    """

    members: list[Member]
    label: str = ""
    letter: str = ""
    tone: int = 1

    @property
    def run(self) -> Run | None:
        return self.members[0].run

    @property
    def seeds(self) -> str:
        seeds = [member.run.seed for member in self.members if member.run is not None]
        return ", ".join(str(seed) for seed in sorted(seeds, key=str)) if None not in seeds else ""


@dataclass(eq=False)
class Arena:
    """
    All that was found on one data set, for one task.

    Attributes:
        task (`str`), dataset (`str`): as runs and reports name them.
        groups (`list[Group]`): in the order of the tables.
    """

    task: str
    dataset: str
    groups: list[Group] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    _members: dict[tuple[int, str], Member] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.task.capitalize()} on {self.dataset}"

    def group_of(self, member: Member) -> Group:
        return next(group for group in self.groups if member in group.members)

    def member_of(self, report: Report | Evaluation, row: Measured | Certified | str) -> Member:
        """The model of a row of a report, or of a label or name in it."""
        return self._members[report.source.number, row if isinstance(row, str) else row.model]


def arenas_of(collection: Collection) -> list[Arena]:
    """Sort what was found by task and data set, and group the models of each."""
    members = {run.source.folder.resolve(): Member(run.name, run) for run in collection.runs}
    strangers: dict[str, Member] = {}
    arenas: dict[tuple[str, str], Arena] = {}
    belonging: dict[tuple[str, str], list[Member]] = {}

    def arena(task: str, dataset: str) -> tuple[str, str]:
        arenas.setdefault((task, dataset), Arena(task, dataset))
        belonging.setdefault((task, dataset), [])
        return task, dataset

    for member in members.values():
        belonging[arena(member.run.task, member.run.dataset)].append(member)
    for report in collection.reports:
        key = arena(report.setting.task, report.setting.dataset)
        arenas[key].reports.append(report)
        for label in report.labels:
            named = report.names.get(label, label)
            member = _the_run(named, members) or strangers.setdefault(named, Member(label))
            arenas[key]._members[report.source.number, label] = member
            if member not in belonging[key]:
                belonging[key].append(member)
    for one in collection.evaluations:
        key = arena(one.task, one.dataset)
        own_folder = members.get(one.source.folder.resolve())
        member = own_folder or _the_run(one.model, members) or strangers.setdefault(one.model, Member(_end(one.model)))
        arenas[key]._members[one.source.number, one.model] = member
        if member not in belonging[key]:
            belonging[key].append(member)
    for key, found in arenas.items():
        found.groups = _grouped(belonging[key])
    return list(arenas.values())


def _the_run(named: str, members: dict[Path, Member]) -> Member | None:
    """The run that a report calls so: the folder itself, or the only one whose path ends in what was given."""
    exact = members.get(Path(named).resolve())
    if exact is not None:
        return exact
    parts = Path(named).parts
    ending = [member for folder, member in members.items() if parts and folder.parts[-len(parts) :] == parts]
    if not ending:  # Runs and reports may have been moved since, together.
        ending = [member for folder, member in members.items() if parts and folder.name == parts[-1]]
    return ending[0] if len(ending) == 1 else None


def _end(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name


def _grouped(members: Sequence[Member]) -> list[Group]:
    by_identity: dict[Any, list[Member]] = {}
    for member in members:
        by_identity.setdefault(member.run.identity if member.run else member, []).append(member)
    groups = [Group(found) for found in by_identity.values()]
    # The baseline first, then as strategies and scopes sort; models without a run last.
    groups.sort(key=lambda group: (group.run is None, *_family(group.run)))
    _label(groups)
    for position, group in enumerate(groups):
        group.letter = _letter(position)
        group.tone = position % 8 + 1
    return groups


def _family(run: Run | None) -> tuple[bool, str, str]:
    return (False, "", "") if run is None else (run.strategy != NO_STRATEGY, run.scope or "", run.strategy)


def _label(groups: Sequence[Group]) -> None:
    """Strategy and scope, and of groups that share both the options that differ among them."""
    scopes = {group.run.scope for group in groups if group.run and group.run.scope}
    families: dict[Any, list[Group]] = {}
    for group in groups:
        if group.run is None:
            group.label = group.members[0].name
        else:
            families.setdefault(_family(group.run), []).append(group)
    for family in families.values():
        run = family[0].run
        base = "baseline" if run.strategy == NO_STRATEGY else run.strategy
        base += f", {run.scope}" if run.scope and (len(scopes) > 1 or run.scope != _USUAL_SCOPE) else ""
        for group in family:
            own = [f"{name} {group.run.options.get(name, 'default')}" for name in _differing(family)]
            group.label = ", ".join([base, *own[:_LABELLED]])
    _tell_apart(groups)


def _differing(family: Sequence[Group]) -> list[str]:
    names = dict.fromkeys(name for group in family for name in group.run.options)
    told = [name for name in names if not name.startswith((*INCIDENTAL, *_OF_THE_DATA))]
    return [name for name in told if len({str(group.run.options.get(name)) for group in family}) > 1]


def _tell_apart(groups: Sequence[Group]) -> None:
    labels = [group.label for group in groups]
    for group in groups:
        if labels.count(group.label) > 1:
            group.label = f"{group.label} ({group.members[0].name})"


def _letter(position: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    letters = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
