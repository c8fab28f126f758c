"""The page's sections in their order, and what is said where nothing was found for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lrsegformer.reporting.charts.canvas import Chart
from lrsegformer.reporting.charts.robustness import attack_charts, certified_charts, severity_charts
from lrsegformer.reporting.charts.tradeoff import tradeoff_charts
from lrsegformer.reporting.charts.training import bound_charts, training_charts
from lrsegformer.reporting.groups import Arena
from lrsegformer.reporting.pictures import Viewer, viewers_of
from lrsegformer.reporting.reading.collection import Collection
from lrsegformer.reporting.tables.cost import cost_table
from lrsegformer.reporting.tables.guarantees import bound_tables, certified_tables
from lrsegformer.reporting.tables.matrix import matrix_tables
from lrsegformer.reporting.tables.overview import overview_table
from lrsegformer.reporting.tables.perturbed import attack_tables, corruption_tables, masking_table, shifted_tables
from lrsegformer.reporting.tables.scores import clean_tables, generalisation_table
from lrsegformer.reporting.tables.table import Table


@dataclass
class ChartSet:
    """Charts beside each other; `choice` shows one at a time, chosen by its title."""

    charts: list[Chart]
    title: str = ""
    choice: bool = False


@dataclass
class Block:
    """
    What a section has of one arena.

    Attributes:
        arena (`Arena`, *optional*): `None` where it is about no data set.
        tables, chart_sets, viewers: its content, shown in this order.
    """

    arena: Arena | None
    tables: list[Table] = field(default_factory=list)
    chart_sets: list[ChartSet] = field(default_factory=list)
    viewers: list[Viewer] = field(default_factory=list)

    def __post_init__(self):
        """What several tables have to say is said once, under the last one that is open."""
        for note in dict.fromkeys(note for table in self.tables for note in table.notes):
            tables = [table for table in self.tables if note in table.notes]
            shown = next((table for table in reversed(tables) if not table.folded), tables[-1])
            for table in tables:
                table.notes = [one for one in table.notes if one != note or table is shown]

    @property
    def is_empty(self) -> bool:
        return not (self.tables or self.chart_sets or self.viewers)


@dataclass
class Section:
    """
    Attributes:
        name (`str`): its anchor.
        title (`str`): its heading.
        lead (`str`): a sentence on what is seen.
        blocks (`list[Block]`): one for each arena that has something.
        missing (`str`): what is said where no arena has.
    """

    name: str
    title: str
    lead: str
    blocks: list[Block]
    missing: str


def sections_of(arenas: Sequence[Arena], collection: Collection) -> list[Section]:
    """Every section; pictures that cannot be read are added to what the collection left out."""
    make = _Maker(arenas, f"below {collection.where}")
    sections = [*_compared(make), *_scored(make, collection), *_robust(make), *_trained(make, collection)]
    matrices = matrix_tables(collection.matrices)
    return [*sections, Section("matrix", "Matrix", "", [Block(None, matrices)], "")] if matrices else sections


@dataclass
class _Maker:
    """Makes a section from what each arena has for it."""

    arenas: Sequence[Arena]
    where: str

    def __call__(
        self, name: str, title: str, content: Callable[[Arena], Block], missing: str = "", lead: str = ""
    ) -> Section:
        blocks = [block for arena in self.arenas if not (block := content(arena)).is_empty]
        return Section(name, title, lead, blocks, missing)


def _compared(make: _Maker) -> list[Section]:
    return [
        make(
            "overview",
            "Overview",
            lambda arena: Block(arena, [overview_table(arena)]),
            lead="One number of each kind for every model. Radii are the middle ones of those that were tried.",
        ),
        make(
            "trade-off",
            "Clean against robust",
            lambda arena: Block(
                arena, chart_sets=[ChartSet(charts, kind, True) for kind, charts in tradeoff_charts(arena).items()]
            ),
            f"No attacks, corruptions or certificates were found {make.where}: nothing to set against clean scores.",
            "Up and to the right is better. Choose a radius.",
        ),
    ]


def _scored(make: _Maker, collection: Collection) -> list[Section]:
    return [
        make(
            "clean",
            "Clean scores",
            lambda arena: Block(arena, clean_tables(arena, collection)),
            f"No finished runs and no evaluations were found {make.where}.",
        ),
        make(
            "generalisation",
            "Generalisation",
            lambda arena: Block(arena, _present([generalisation_table(arena)])),
            f"No losses of training and no scores on training images were found {make.where}; lrsegformer robustness "
            "makes the latter by --reliability.",
        ),
    ]


def _robust(make: _Maker) -> list[Section]:
    shifted = make("shift", "Shifted data", lambda arena: Block(arena, shifted_tables(arena)))
    return [
        make(
            "corruption",
            "Corruption",
            lambda arena: Block(arena, corruption_tables(arena), _charts(severity_charts(arena))),
            f"No scores under corruption were found {make.where}; lrsegformer robustness makes them.",
        ),
        *([shifted] if shifted.blocks else []),
        make(
            "attack",
            "Attack",
            lambda arena: Block(
                arena, [*attack_tables(arena), *_present([masking_table(arena)])], _charts(attack_charts(arena))
            ),
            f"No scores under attack were found {make.where}; lrsegformer robustness makes them.",
        ),
        make(
            "certified",
            "Certified",
            lambda arena: Block(arena, certified_tables(arena), _charts(certified_charts(arena))),
            f"No certificates were found {make.where}; lrsegformer certify makes them.",
        ),
    ]


def _trained(make: _Maker, collection: Collection) -> list[Section]:
    return [
        make(
            "bounds",
            "Bounds",
            lambda arena: Block(arena, bound_tables(arena), _charts(bound_charts(arena))),
            f"No run with bounds was found {make.where}.",
            "Guaranteed bounds and measured estimates, in tables, charts and colours apart.",
        ),
        make(
            "training",
            "Training",
            lambda arena: Block(arena, chart_sets=_charts(training_charts(arena))),
            f"No logs of training (trainer_state.json) were found {make.where}.",
        ),
        make(
            "pictures",
            "Pictures",
            lambda arena: Block(arena, viewers=viewers_of(arena, collection.left_out)),
            f"No pictures of attacks or certificates were found {make.where}.",
            "The same image clean, attacked and certified: flip with the buttons, or with the arrow keys on them.",
        ),
        make(
            "cost",
            "Cost",
            lambda arena: Block(arena, _present([cost_table(arena)])),
            f"No times, memory or sizes were recorded {make.where}.",
        ),
    ]


def _charts(charts: list[Chart]) -> list[ChartSet]:
    return [ChartSet(charts)] if charts else []


def _present(tables: Sequence[Table | None]) -> list[Table]:
    return [table for table in tables if table is not None]
