"""Text that people write: read up to a size, and as JSON or YAML only what it says plainly."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

# Of options, which nobody writes by the megabyte, and of tables, logs and results.
MOST_OPTION_BYTES, MOST_BYTES = 2**20, 2**28
# Entries of a YAML file with every alias written out.
MOST_ENTRIES = 100_000
_PLAIN = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
_MERGE = "tag:yaml.org,2002:merge"
_TOO_DEEP = "is nested too deeply"


def is_file(word: str) -> bool:
    """Whether a word of a command line names a file; one that is too long for a name does not."""
    return os.path.isfile(os.path.expanduser(word))


def read_text(path: str | Path, most_bytes: int = MOST_BYTES) -> str:
    """
    The text of a file, in UTF-8.

    Raises:
        `ValueError`: it cannot be read, is no ordinary file, is no text, or is larger; in words that follow its name.
    """
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size > most_bytes:
            raise ValueError(f"is no such file: it has {status.st_size / 2**20:.0f} MB")
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise ValueError("cannot be read: it is no ordinary file")
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("cannot be read: it is no text in UTF-8") from None


def parse_json(text: str, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """
    What a JSON text holds.

    Args:
        pairs_hook (`Callable`, *optional*): what becomes of an object; a `dict` by default, whose keys stand once.

    Raises:
        `ValueError`: no JSON, nested too deeply, or a key twice; in words that follow its name.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs_hook or _with_keys_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON (line {error.lineno}: {error.msg})") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def read_mapping(path: str | Path) -> dict[str, Any]:
    """
    What a YAML or JSON file of options holds: text, numbers, true, false, null, lists and mappings.

    Raises:
        `ValueError`: it cannot be read or is no such file; in words that follow its name.
    """
    text = read_text(path, MOST_OPTION_BYTES)
    try:
        content = json.loads(text, object_pairs_hook=_with_keys_once)
    except json.JSONDecodeError:  # YAML, which takes JSON too, but not with tabs.
        content = parse_yaml(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if not isinstance(content, dict):
        raise ValueError("is not a mapping from option names to values")
    return content


def parse_yaml(text: str) -> Any:
    """
    What a YAML text holds. Dates are text. Aliases are taken as long as what they stand for, written out, stays within
    [`MOST_ENTRIES`]: a few lines of aliases of aliases would fill any memory.

    Raises:
        `ValueError`: no YAML, values of other kinds, keys that are neither text nor whole numbers or stand twice, too
            many entries, or nested too deeply; in words that follow its name.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes dates for text."""

        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    loader = None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    finally:
        if loader is not None:
            loader.dispose()


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """The entries of a node with every alias written out; those of a node inside itself have no end."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf
    line = node.start_mark.line + 1
    if node.tag not in _PLAIN | {_MERGE}:
        raise ValueError(f"is not plain: line {line} has a value of the kind {node.tag.rpartition(':')[2]}")
    children = node.value if isinstance(node.value, list) else []
    if node.tag.endswith(":map"):
        _check_keys([key for key, _ in children])
        children = [value for _, value in children]
    count = 1 + sum(_count(child, known) for child in children)
    if count > MOST_ENTRIES:
        raise ValueError(
            f"holds more than {MOST_ENTRIES} entries with its aliases written out (line {line}): write plainly what "
            "is meant"
        )
    known[id(node)] = count
    return count


def _check_keys(keys: list[yaml.Node]) -> None:
    seen: set[str] = set()
    for key in keys:
        line = key.start_mark.line + 1
        if not key.tag.endswith((":str", ":int", ":merge")):
            shown = key.value if isinstance(key.value, str) else "a list or mapping"
            raise ValueError(
                f"has a key that is neither text nor a whole number, line {line}: put {shown} into quotes"
            )
        if key.value in seen:
            raise ValueError(f"has the key {key.value!r} twice, the second in line {line}: keep one")
        seen.add(key.value)


def _with_keys_once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r} twice: keep one")
    return found
