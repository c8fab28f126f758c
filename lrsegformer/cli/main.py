"""`lrsegformer`: one command with a name, and behind it the command lines of this folder."""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.errors import InputError

NAME = "lrsegformer"
DESCRIPTION = "Fine-tune SegFormer under Lipschitz constraints, and see what they do."
EPILOG = f"`{NAME} COMMAND --help` lists the options of a command."
REMEDIES = Remedies(out_of_memory="nothing was begun.", stopped="nothing was begun.")


@dataclass(frozen=True)
class Command:
    """
    What stands behind a name of the command line.

    Attributes:
        home (`str`): the module of this folder, imported when the command is called. It has `main(*arguments, argv)`,
            and `build_parser(*arguments)`, which gives the parser of its `--help`.
        summary (`str`): one line.
        arguments (`tuple[str]`): what its functions take first.
    """

    home: str
    summary: str
    arguments: tuple[str, ...] = ()

    def module(self) -> ModuleType:
        return import_module(f"lrsegformer.cli.{self.home}")


# A new command is a file of this folder with `main` and `build_parser` and a row here, where it comes in a day's work.
COMMANDS = {
    "finetune-seg": Command("finetune", "fine-tune for semantic segmentation", ("segmentation",)),
    "finetune-cls": Command("finetune", "fine-tune for image classification", ("classification",)),
    "run": Command("run", "fine-tune for either task (--task), with a strategy unless --variant baseline"),
    "evaluate": Command("evaluate", "score a checkpoint by every protocol: confusion matrix, worst images"),
    "predict": Command("predict", "predict images, folders and videos: class maps, overlays, certified radii"),
    "export": Command("export", "write a model as a stock SegFormer checkpoint, ONNX, or a program of torch.export"),
    "robustness": Command("robustness", "score models under attack, corruption and shifted data"),
    "certify": Command("certify", "certify predictions, beside attacks and randomised smoothing"),
    "report": Command("report", "one HTML page from runs, robustness reports and certificates"),
}


class _Parser(argparse.ArgumentParser):
    """Raises its errors as [`InputError`]."""

    def error(self, message: str) -> None:
        raise InputError(f"{message}; see {NAME} --help.")


def build_parser(of_commands: Mapping[str, argparse.ArgumentParser] | None = None) -> argparse.ArgumentParser:
    """
    The parser of what comes before a command; knows the commands' names and summaries.

    Args:
        of_commands (`dict`, *optional*): names of commands -> their parsers, whose options it is to know, too.
    """
    parser = _Parser(prog=NAME, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{NAME} {version(NAME)}")
    parser.add_argument(
        "--print_completion",
        metavar="SHELL",
        choices=("bash", "zsh", "tcsh"),
        help="Print what completes this command in a shell (bash, zsh or tcsh); needs the extra `completion`.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        parents = [] if of_commands is None else [of_commands[name]]
        commands.add_parser(name, help=command.summary, add_help=False, parents=parents)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run a command by its name; exits after one line where there is none of that name."""
    argv = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(argv[0]) if argv else None
    if command is None:
        run_or_explain(lambda: _answer(argv), REMEDIES)
    else:
        command.module().main(*command.arguments, argv[1:])


def _answer(argv: Sequence[str]) -> None:
    """What is asked of the command itself."""
    if argv and not argv[0].startswith("-"):
        near = difflib.get_close_matches(argv[0].replace("_", "-"), COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}."
        raise InputError(f"{NAME} has no command {argv[0]!r}: {hint}")
    parser = build_parser()
    shell = parser.parse_args(argv).print_completion
    if shell is None:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    from lrsegformer.cli.completion import completion_script

    of_commands = {name: command.module().build_parser(*command.arguments) for name, command in COMMANDS.items()}
    print(completion_script(build_parser(of_commands), of_commands.values(), shell))
