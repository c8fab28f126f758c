"""One parser for all command lines: dataclasses, a YAML or JSON file by `--config`, and the command line over it."""

import dataclasses
import difflib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from lrsegformer import text_files
from lrsegformer.errors import InputError

COMMAND = "lrsegformer"
# For argparse, which has no public way to say it: its own pattern takes -1e-3 and -5. for options.
NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """
    The options of a command line and of its file, by the names of the fields.

    Attributes:
        values (`dict`): every field's value.
        in_file, on_line (`set[str]`): the names that were given in the one and on the other.
    """

    values: dict[str, Any]
    in_file: set[str]
    on_line: set[str]


class OneLineParser(HfArgumentParser):
    """
    [`~transformers.HfArgumentParser`] that raises its errors as [`InputError`] and takes no abbreviations.

    Negative numbers are values in every notation, so that the check of their range speaks. An option's short names are
    the `aliases` in the metadata of its field, on the command line and in a file alike.
    """

    def __init__(self, dataclass_types: Any, **kwargs: Any):
        super().__init__(dataclass_types, **{"prog": " ".join(program()), "allow_abbrev": False, **kwargs})
        self._negative_number_matcher = NEGATIVE_NUMBER

    def error(self, message: str) -> None:
        unknown = re.search(r"^unrecognized arguments: (?:.* )?(--[^\s=]+)", message)
        near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        hint = f"did you mean {near[0]}? See" if near else "see"
        raise InputError(f"{message}; {hint} --help.")

    def add_config(self) -> None:
        """The option that [`parse_with_config`] reads."""
        self.add_argument("--config", metavar="FILE", help="YAML or JSON file of options; the command line wins.")

    def add_model(self) -> None:
        """The saved model that a command is about, by its place."""
        self.add_argument("model", metavar="MODEL", help="Folder of a run or of a checkpoint, or an id on the Hub.")

    def field_names(self) -> dict[str, str]:
        """The fields by all names that they have as options, without the dashes in front."""
        names: dict[str, str] = {}
        for kind in self.dataclass_types:
            for field in dataclasses.fields(kind):
                if field.init:
                    aliases = (alias.removeprefix("--") for alias in field.metadata.get("aliases", ()))
                    names |= dict.fromkeys((field.name, *aliases), field.name)
        return names

    def parse_with_config(self, argv: Sequence[str]) -> Parsed:
        """
        Parse a command line and the file that its `--config` names; the command line wins.

        Raises:
            [`~lrsegformer.errors.InputError`]: for anything wrong with the options or the file.
        """
        names = self.field_names()
        config_path = find_option("--config", argv)
        in_file = []
        if config_path is not None:
            in_file = self.words_of(read_mapping("--config", config_path), config_path)
        return Parsed(vars(self.parse_args([*in_file, *argv])), _given(in_file, names), _given(argv, names))

    def words_of(self, options: Mapping[str, Any], source: str) -> list[str]:
        """
        Options by name as words of a command line; see [`options_to_words`].

        Args:
            options (`dict`): names of options, of either kind, to values.
            source (`str`): where they come from, for messages.
        """
        return options_to_words(options, source, set(self.field_names()), self._takers_of_several())

    def _takers_of_several(self) -> set[str]:
        """The options that take several words, by all their names."""
        several = [action for action in self._actions if action.nargs in ("+", "*")]
        return {word.removeprefix("--") for action in several for word in action.option_strings}

    def build(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """One instance of each dataclass, from the values of the fields."""
        return tuple(
            kind(**{field.name: values[field.name] for field in dataclasses.fields(kind) if field.init})
            for kind in self.dataclass_types
        )


def program() -> list[str]:
    """The words by which a user started this process: `lrsegformer` and a command's name, or the file of a script."""
    file = Path(sys.argv[0])
    if COMMAND in (file.stem, file.parent.name if file.name == "__main__.py" else None):
        return [COMMAND, *sys.argv[1:2]]
    return [os.path.relpath(file)]


def find_option(option: str, argv: Sequence[str]) -> str | None:
    """
    The value that an option has on a command line, for one that has to be known before the others can be parsed.

    Raises:
        [`~lrsegformer.errors.InputError`]: the option stands there without a value.
    """
    found = None
    for position, word in enumerate(argv):
        if word == option:
            value = argv[position + 1 : position + 2]
            if not value or value[0].startswith("--"):
                raise InputError(f"{option} needs a {'file' if option == '--config' else 'value'}; see --help.")
            found = value[0]
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def options_to_words(options: Mapping[str, Any], source: str, known: set[str], several: set[str]) -> list[str]:
    """
    Options by name as words of a command line.

    Args:
        options (`dict`): names of options to values; `None` leaves the default.
        source (`str`): where they come from, for messages.
        known (`set[str]`): the names that the parser takes.
        several (`set[str]`): those of options that take several words; a list for another one becomes JSON, unless it
            has a single entry.

    Raises:
        [`~lrsegformer.errors.InputError`]: an unknown key (naming the nearest known one).
    """
    words: list[str] = []
    for key, value in options.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see --help_all for the options."
            raise InputError(f"Unknown key {key!r} in {source}: {hint}")
        if value is None:
            continue
        if isinstance(value, list) and (key in several or len(value) == 1):
            words += [f"--{key}", *map(str, value)]
        else:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            # A value such as -1,1 would be taken for an option.
            words += [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]
    return words


def read_mapping(option: str, path: str) -> dict[str, Any]:
    """
    What a YAML or JSON file holds that an option names.

    Raises:
        [`~lrsegformer.errors.InputError`]: it cannot be read, or holds no mapping from names to values.
    """
    try:
        return text_files.read_mapping(path)
    except ValueError as error:
        raise InputError(f"{option} {path} {error}.") from None


def _given(options: Sequence[str], names: dict[str, str]) -> set[str]:
    words = {word.split("=")[0].removeprefix("--").replace("-", "_") for word in options if word.startswith("--")}
    return {names[word] for word in words if word in names}
