"""One parser for all command lines: dataclasses, a YAML or JSON file by `--config`, and the command line over it."""

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from lrsegformer.cli.command_line import NEGATIVE_NUMBER
from lrsegformer.data.arguments import DataArguments
from lrsegformer.errors import InputError
from lrsegformer.training.arguments import ModelArguments, TrainingDefaults
from lrsegformer.training.recipes import RECIPES


class OneLineParser(HfArgumentParser):
    """
    [`~transformers.HfArgumentParser`] that raises its errors as [`InputError`] and takes no abbreviations.

    Negative numbers are values in every notation, so that the check of their range speaks.
    """

    def __init__(self, dataclass_types: Any, **kwargs):
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        self._negative_number_matcher = NEGATIVE_NUMBER

    def error(self, message: str) -> None:
        raise InputError(f"{message}; see --help.")


def build_parser(task: str, description: str, training_class: type = TrainingDefaults) -> OneLineParser:
    """
    The parser of a task.

    Args:
        task (`str`): `"segmentation"` or `"classification"`; sets the recipe's defaults.
        description (`str`): first paragraph of `--help`.
        training_class (`type`, *optional*, defaults to `TrainingDefaults`):
            `TrainingDefaults` for `--help`, which then needs no torch, or `LRSegformerTrainingArguments` to parse.
    """
    epilog = (
        "Every other field of transformers.TrainingArguments is an option too (--help_all lists them). "
        "--config FILE.yaml gives options by name; the command line wins."
    )
    parser = OneLineParser((ModelArguments, DataArguments, training_class), description=description, epilog=epilog)
    parser.add_argument("--config", metavar="FILE", default=None, help="YAML or JSON file of options.")
    parser.add_argument(
        "--help_all", action="store_true", help="List the options of transformers.TrainingArguments too."
    )
    parser.set_defaults(**RECIPES[task])
    return parser


def find_config(argv: list[str]) -> str | None:
    """
    The file that `--config` names on a command line, which has to be read before the other options can be parsed.

    Raises:
        [`~lrsegformer.errors.InputError`]: the option stands there without a file.
    """
    for position, option in enumerate(argv):
        if option == "--config":
            value = argv[position + 1 : position + 2]
            if not value or value[0].startswith("--"):
                raise InputError("--config needs a file: a YAML or JSON mapping of options.")
            return value[0]
        if option.startswith("--config="):
            return option.removeprefix("--config=")
    return None


def config_to_options(path: str, known: set[str]) -> list[str]:
    """
    A YAML or JSON file as command-line options.

    Args:
        path (`str`): the file; a mapping from option names to values. `null` leaves the default.
        known (`set[str]`): the names that the parser takes.

    Raises:
        [`~lrsegformer.errors.InputError`]: unreadable file, not a mapping, or an unknown key (naming the nearest known
        one).
    """
    options: list[str] = []
    for key, value in _read_mapping(path).items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see --help_all for the options."
            raise InputError(f"Unknown key {key!r} in {path}: {hint}")
        if value is None:
            continue
        if isinstance(value, list):
            options += [f"--{key}", *map(str, value)]
        else:
            options += [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return options


def _read_mapping(path: str) -> dict[str, Any]:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except json.JSONDecodeError:  # YAML, which takes JSON too, but not with tabs.
            content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--config {path} is neither YAML nor JSON: {reason}.") from None
    if not isinstance(content, dict):
        raise InputError(f"--config {path} is not a mapping from option names to values.")
    return content


def parse_arguments(task: str, argv: list[str], description: str) -> tuple[ModelArguments, DataArguments, Any]:
    """
    Parse a command line.

    Returns:
        The model, data and training arguments; the last an `LRSegformerTrainingArguments`.

    Raises:
        [`~lrsegformer.errors.InputError`]: for anything wrong with the options. `SystemExit`: after `--help`.
    """
    if any(option in ("-h", "--help") for option in argv):
        build_parser(task, description).parse_args(["--help"])
    from lrsegformer.training.training_arguments import LRSegformerTrainingArguments

    parser = build_parser(task, description, LRSegformerTrainingArguments)
    if "--help_all" in argv:
        parser.parse_args(["--help"])
    in_file: list[str] = []
    config_path = find_config(argv)
    if config_path is not None:
        known = {item.name for kind in parser.dataclass_types for item in dataclasses.fields(kind) if item.init}
        in_file = config_to_options(config_path, known)
    namespace = vars(parser.parse_args(in_file + argv))
    _settle_exclusive_options(namespace, _names(in_file), _names(argv))
    try:
        model_arguments, data_arguments, training_arguments = (
            kind(**{item.name: namespace[item.name] for item in dataclasses.fields(kind) if item.init})
            for kind in parser.dataclass_types
        )
    except InputError:
        raise
    except ValueError as error:  # transformers' own checks of the values.
        raise InputError(f"{' '.join(str(error).split())}; see --help_all.") from None
    return model_arguments, data_arguments, training_arguments


def _names(options: list[str]) -> set[str]:
    return {option.split("=")[0].removeprefix("--").replace("-", "_") for option in options if option.startswith("--")}


def _settle_exclusive_options(namespace: dict[str, Any], in_file: set[str], on_line: set[str]) -> None:
    """
    Unset what contradicts a stronger source: the command line is stronger than the file, and both than the recipe.

    A run's length is given in steps or in epochs. Of the three batch sizes two determine the third.
    """
    given = in_file | on_line
    if "max_steps" in given and "num_train_epochs" not in given:
        namespace["num_train_epochs"] = None
    if "num_train_epochs" in on_line and "max_steps" not in on_line:
        namespace["max_steps"] = None
    sizes = ("gradient_accumulation_steps", "per_device_train_batch_size", "total_batch_size")
    if given.issuperset(sizes[:2]) and "total_batch_size" not in given:
        namespace["total_batch_size"] = None
    if on_line.intersection(sizes) and in_file.intersection(sizes):
        weakest = next((name for name in sizes if name not in on_line), None)
        if weakest is not None:
            namespace[weakest] = None
