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
    where = f"below {collection.where}"

    def section(
        name: str, title: str, lead: str, missing: str, content: Callable[[Arena], Block], always: bool = True
    ) -> list[Section]:
        blocks = [block for arena in arenas if not (block := content(arena)).is_empty]
        return [Section(name, title, lead, blocks, missing)] if blocks or always else []

    return [
        *section(
            "overview",
            "Overview",
            "One number of each kind for every model. Radii are the middle ones of those that were tried.",
            "",
            lambda arena: Block(arena, [overview_table(arena)]),
        ),
        *section(
            "trade-off",
            "Clean against robust",
            "Up and to the right is better. Choose a radius.",
            f"No attacks, corruptions or certificates were found {where}: nothing to set against clean scores.",
            lambda arena: Block(
                arena, chart_sets=[ChartSet(charts, kind, True) for kind, charts in tradeoff_charts(arena).items()]
            ),
        ),
        *section(
            "clean",
            "Clean scores",
            "",
            f"No finished runs and no evaluations were found {where}.",
            lambda arena: Block(arena, clean_tables(arena, collection)),
        ),
        *section(
            "generalisation",
            "Generalisation",
            "",
            f"No losses of training and no scores on training images were found {where}; the bench makes the latter "
            "by --reliability.",
            lambda arena: Block(arena, _present([generalisation_table(arena)])),
        ),
        *section(
            "corruption",
            "Corruption",
            "",
            f"No scores under corruption were found {where}; lrsegformer robustness makes them.",
            lambda arena: Block(arena, corruption_tables(arena), _charts(severity_charts(arena))),
        ),
        *section("shift", "Shifted data", "", "", lambda arena: Block(arena, shifted_tables(arena)), always=False),
        *section(
            "attack",
            "Attack",
            "",
            f"No scores under attack were found {where}; lrsegformer robustness makes them.",
            lambda arena: Block(
                arena, [*attack_tables(arena), *_present([masking_table(arena)])], _charts(attack_charts(arena))
            ),
        ),
        *section(
            "certified",
            "Certified",
            "",
            f"No certificates were found {where}; lrsegformer certify makes them.",
            lambda arena: Block(arena, certified_tables(arena), _charts(certified_charts(arena))),
        ),
        *section(
            "bounds",
            "Bounds",
            "Guaranteed bounds and measured estimates, in tables, charts and colours apart.",
            f"No run with bounds was found {where}.",
            lambda arena: Block(arena, bound_tables(arena), _charts(bound_charts(arena))),
        ),
        *section(
            "training",
            "Training",
            "",
            f"No logs of training (trainer_state.json) were found {where}.",
            lambda arena: Block(arena, chart_sets=_charts(training_charts(arena))),
        ),
        *section(
            "pictures",
            "Pictures",
            "The same image clean, attacked and certified: flip with the buttons, or with the arrow keys on them.",
            f"No pictures of attacks or certificates were found {where}.",
            lambda arena: Block(arena, viewers=viewers_of(arena, collection.left_out)),
        ),
        *section(
            "cost",
            "Cost",
            "",
            f"No times, memory or sizes were recorded {where}.",
            lambda arena: Block(arena, _present([cost_table(arena)])),
        ),
        *_matrix_section(collection),
    ]


def _matrix_section(collection: Collection) -> list[Section]:
    tables = matrix_tables(collection.matrices)
    return [Section("matrix", "Matrix", "", [Block(None, tables)], "")] if tables else []


def _charts(charts: list[Chart]) -> list[ChartSet]:
    return [ChartSet(charts)] if charts else []


def _present(tables: Sequence[Table | None]) -> list[Table]:
    return [table for table in tables if table is not None]
