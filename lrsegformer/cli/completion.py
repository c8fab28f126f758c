"""What completes a command in a shell: a script that shtab makes from its parsers."""

import argparse
from collections.abc import Iterable

from lrsegformer.extras import require


def completion_script(
    parser: argparse.ArgumentParser, of_commands: Iterable[argparse.ArgumentParser], shell: str
) -> str:
    """
    The script that completes commands, options, choices and file names. It runs no Python when it completes.

    Args:
        parser (`argparse.ArgumentParser`): the whole; with the options of its commands.
        of_commands (`Iterable[argparse.ArgumentParser]`): where it has them from; not to be used after this.
        shell (`str`): `"bash"`, `"zsh"` or `"tcsh"`.

    Raises:
        [`~lrsegformer.errors.InputError`]: shtab is not installed.
    """
    shtab = require("shtab")
    for action in (action for command in of_commands for action in command._actions):
        # Of an option's two spellings that which the help lists.
        action.option_strings = [word for word in action.option_strings if not _is_second_spelling(word)]
        if action.choices is None and action.nargs != 0:
            action.complete = shtab.FILE
    return shtab.complete(parser, shell)


def _is_second_spelling(word: str) -> bool:
    """Whether it is the form with dashes that HfArgumentParser adds to an option's name with underscores."""
    return "-" in word[2:] and not word.startswith("--no-")
