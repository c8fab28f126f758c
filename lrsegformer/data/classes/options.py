"""From the options to the label space of a data set of masks: names, mask values, colours, or what the masks hold."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lrsegformer.data.arguments import DataArguments
from lrsegformer.data.classes.names import read_class_names, read_rows
from lrsegformer.data.classes.rows import ClassRow, is_integer, parse_colour
from lrsegformer.data.classes.survey import MaskSource, even_sample, value_counts
from lrsegformer.data.labels import LabelSpace, show_value
from lrsegformer.errors import InputError

logger = logging.getLogger(__name__)

BACKGROUND = "background"
_VOID_NAMES = ("void", "ignore")
_MOST_CLASSES = 1000
_LISTED = 8


def label_space_of_masks(
    arguments: DataArguments,
    train: MaskSource,
    validation: MaskSource,
    where: str,
    known_names: tuple[str, ...] | None = None,
    known_reduction: bool = False,
) -> LabelSpace:
    """
    What the masks of a data set mean, by `--mask_values` and `--class_names`, else by what is known of the data set,
    else by the values in its masks. Tells both sources whether to read colours.

    A single class name is binary segmentation: the classes are `background` and that name, the masks hold 0 and 1, or
    0 and 255.

    Args:
        where (`str`): the data set, for messages.
        known_names, known_reduction: names and zero-label reduction of a published data set.

    Raises:
        InputError: the options contradict each other or the masks.
    """
    table = read_class_names(arguments.class_names) if arguments.class_names is not None else None
    names = table.names if table is not None else known_names
    reduction = known_reduction if arguments.reduce_zero_label is None else arguments.reduce_zero_label
    is_coloured = train.is_coloured()
    if arguments.mask_values is not None:
        space = _mapped_space(arguments.mask_values, names, arguments.ignore_label, is_coloured)
    elif table is not None and table.colours is not None and is_coloured:
        values = tuple((colour, index) for index, colour in enumerate(table.colours))
        space = LabelSpace(table.names, None, False, values, colours=True)
    elif table is not None and len(table.names) == 1:
        space = _binary_space(table.names[0], arguments, (train, validation), where)
    elif names is not None:
        if table is not None and table.first_index == 1 and arguments.reduce_zero_label is None:
            logger.info("%s numbers the classes from 1: 0 in a mask is void", arguments.class_names)
            reduction = True
        space = LabelSpace(names, arguments.ignore_label, reduction)
    else:
        space = space_of_masks((train, validation), arguments.ignore_label, reduction, where)
    for source in (train, validation):
        source.has_colours = space.colours
    return space


def _mapped_space(
    option: str, names: tuple[str, ...] | None, ignore_label: int | None, is_coloured: bool
) -> LabelSpace:
    rows = [_as_value(row) for row in read_rows(option, "--mask_values")]
    has_colours = all(row.colour is not None for row in rows)
    has_indices = all(row.index is not None for row in rows)
    if not has_colours and not has_indices:
        odd = next((row for row in rows if row.index is None and row.colour is None), rows[-1])
        raise InputError(
            f"{odd.place}: {odd.name!r} has no value or colour like the others; give 0,255 or #000000,#ff0000 in the "
            "order of the classes, or JSON or a table from value or colour to class name"
        )
    colours = has_colours and (is_coloured or not has_indices)
    if all(row.name is None for row in rows):
        rows, names = _in_class_order(rows, names)
    else:
        rows = [_void_if_named_so(row) for row in rows]
        found = tuple(dict.fromkeys(row.name for row in rows if row.name is not None))
        names = found if names is None else _with_background(names, found)
        if set(names) != set(found):
            odd_name = sorted(set(names) ^ set(found))[0]
            at_fault = "--mask_values" if odd_name in names else "--class_names"
            raise InputError(
                f"--mask_values: the class {odd_name!r} is missing in {at_fault}; give all classes in both"
            )
    if ignore_label is not None and (colours or any(row.index == ignore_label and row.name for row in rows)):
        raise InputError(
            f"--ignore_label {ignore_label}: --mask_values says what every {'colour' if colours else 'value'} means; "
            "leave the option out, and write null for void"
        )
    places = {name: index for index, name in enumerate(names)}
    mapping: dict[int, int | None] = {}
    for row in rows:
        value = row.colour if colours else row.index
        assert value is not None  # of one kind, as checked above
        if value in mapping:
            raise InputError(f"{row.place}: {show_value(value, colours)} stands more than once; keep one")
        mapping[value] = None if row.name is None else places[row.name]
    return LabelSpace(names, ignore_label, False, tuple(mapping.items()), colours)


def _as_value(row: ClassRow) -> ClassRow:
    """A value or colour of a plain list, which is read as a name."""
    if row.index is not None or row.colour is not None or row.name is None:
        return row
    if is_integer(row.name):
        return ClassRow(None, index=int(row.name), place=row.place)
    colour = parse_colour(row.name)
    return row if colour is None else ClassRow(None, colour=colour, place=row.place)


def _void_if_named_so(row: ClassRow) -> ClassRow:
    is_void = row.name is not None and row.name.casefold() in _VOID_NAMES
    return ClassRow(None, row.index, row.colour, place=row.place) if is_void else row


def _in_class_order(rows: Sequence[ClassRow], names: tuple[str, ...] | None) -> tuple[list[ClassRow], tuple[str, ...]]:
    if names is not None and len(names) == 1 and len(rows) == 2:
        names = (BACKGROUND, *names)
    names = names or tuple(f"class_{index}" for index in range(len(rows)))
    if len(names) != len(rows):
        raise InputError(f"--mask_values: {len(rows)} values for {len(names)} class names; give one for each class")
    return [
        ClassRow(name, row.index, row.colour, place=row.place) for name, row in zip(names, rows, strict=True)
    ], names


def _with_background(names: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, ...]:
    return (BACKGROUND, *names) if len(names) == 1 and BACKGROUND in found else names


def _binary_space(name: str, arguments: DataArguments, sources: Sequence[MaskSource], where: str) -> LabelSpace:
    if name == BACKGROUND or arguments.reduce_zero_label:
        raise InputError(
            f"--class_names {name}: one class beside the background, whose mask value is 0; give that class's "
            "name, without --reduce_zero_label"
        )
    values: set[int] = set()
    for source in sources:
        for index in even_sample(len(source)):
            values.update(value_counts(source.mask(int(index))))
    values -= {arguments.ignore_label}
    if values <= {0, 1, 255} and (1 in values or 255 not in values):
        return LabelSpace((BACKGROUND, name), arguments.ignore_label)
    if values <= {0, 255}:
        logger.info("%s: 255 in a mask is %s, 0 is the background", where, name)
        return LabelSpace((BACKGROUND, name), arguments.ignore_label, mask_values=((0, 0), (255, 1)))
    raise InputError(
        f"{where}: the masks hold the values {_shown(values)}, and --class_names the one class {name}; say by "
        f"--mask_values what they mean, such as --mask_values 0,{max(values)}"
    )


def _shown(values: set[int]) -> str:
    return ", ".join(str(value) for value in sorted(values)[:_LISTED]) + (", ..." if len(values) > _LISTED else "")


def space_of_masks(
    sources: Sequence[MaskSource], ignore_label: int | None, reduce_zero_label: bool, where: str
) -> LabelSpace:
    """
    Builds a label space from the values that the masks of a data set use, with the names `class_0`, `class_1`, ...

    A class keeps its raw value as its index, so values that never occur become classes without pixels.

    Args:
        sources (`Sequence[MaskSource]`): of all splits; every mask is read.
        where (`str`): the data set, for messages.

    Raises:
        InputError: fewer than two classes are found, or more than 1000 (the masks then hold something else).
    """
    from transformers.utils.logging import tqdm  # which other processes than the first have switched off

    places = [(source, index) for source in sources for index in range(len(source))]
    values: set[int] = set()
    for source, index in tqdm(places, desc="finding the classes in the masks", unit="mask"):
        values.update(value_counts(source.mask(index)))
    used = sorted(values - {255, ignore_label} - ({0} if reduce_zero_label else set()))
    num_labels = used[-1] + 1 - int(reduce_zero_label) if used else 0
    # Few values far apart, such as 0 and 128, are codes.
    are_codes = len(used) <= _LISTED and 4 * len(used) < num_labels
    if used and used[0] < 0 or not 2 <= num_labels <= _MOST_CLASSES or are_codes:
        example = ",".join(str(value) for value in sorted(values)) if 2 <= len(values) <= _LISTED else "0,255"
        raise InputError(
            f"{where}: the masks hold the values {_shown(values)}, which are no class indices 0, 1, 2, ... (255 is "
            f"void); say by --mask_values what they mean, such as --mask_values {example}, or give --class_names"
        )
    logger.warning(
        "%s: found %d classes in the masks and named them class_0 to class_%d; --class_names gives them names",
        where,
        num_labels,
        num_labels - 1,
    )
    return LabelSpace(tuple(f"class_{index}" for index in range(num_labels)), ignore_label, reduce_zero_label)
