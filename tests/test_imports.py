"""The rooms of the package, from the bottom up: imports go down or stay in their room, and no files go in a circle."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lrsegformer"
# From the bottom up. A file at the top level that is no room of its own belongs to the lowest one, `ground`.
ROOMS = (
    "ground",
    "choices",
    "recipes",
    "kernels",
    "layers",
    "losses",
    "evaluation",
    "certification",
    "data",
    "models",
    "hub",
    "attacks",
    "training",
    "robustness",
    "inference",
    "export",
    "matrix",
    "reporting",
    "cli",
)
# What imports the package's own names for its users, and what starts its command: they stand above all rooms.
ROOF = (PACKAGE, f"{PACKAGE}.__main__")
MOST_FILES_OF_A_ROOM = 14
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}


def height_of(module: str) -> int:
    if module in ROOF:
        return len(ROOMS)
    room = module.split(".")[1]
    return ROOMS.index(room) if room in ROOMS else ROOMS.index("ground")


def imported(module: str, source: str) -> Iterator[str]:
    """
    The package's modules that a file imports: at its top, inside functions, and for type checkers alone. Modules that
    it imports by name, or hands on lazily, count by the strings that say where they live.
    """
    tree = ast.parse(source)
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            if (node.module or "").split(".")[0] == PACKAGE:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in FILES else node.module
    yield from (text.partition(":")[0] for text in texts if text.startswith(f"{PACKAGE}."))
    if {"import_module", "lazy_attributes"} & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
        yield from (f"{folder}.{text}" for folder in _folders_of_names(module, texts) for text in texts)


def _folders_of_names(module: str, texts: set[str]) -> set[str]:
    """Where names of modules that are imported by name may be meant: beside the file, and after prefixes it writes."""
    own = module if FILES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    return {own, *(text[:-1] for text in texts if text.startswith(f"{PACKAGE}.") and text.endswith("."))}


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports; read by the process that runs these tests, not by all that collect them."""
    return {
        module: set(FILES) & set(imported(module, path.read_text(encoding="utf-8"))) - {module}
        for module, path in FILES.items()
    }


@pytest.mark.parametrize("module", [module for module in FILES if module not in ROOF])
def test_imports_go_down(module):
    upward = [other for other in imports()[module] if height_of(other) > height_of(module)]
    assert not upward, f"{module} imports {', '.join(sorted(upward))}, which lie above it"


# The same inside robustness, whose rooms are its folders and the two files that all of them know.
WINGS = ("conditions", "subset", "shift", "metrics", "report", "bench", "certificates")


@pytest.mark.parametrize("module", [module for module in FILES if module.startswith(f"{PACKAGE}.robustness.")])
def test_imports_go_down_inside_robustness(module):
    def height(other: str) -> int:
        return WINGS.index(other.split(".")[2])

    inside = [other for other in imports()[module] if other.startswith(f"{PACKAGE}.robustness.")]
    upward = [other for other in inside if height(other) > height(module)]
    assert not upward, f"{module} imports {', '.join(sorted(upward))}, which lie above it"


def test_no_circles():
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_every_folder_is_a_room():
    folders = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ROOMS), "name the new room here and in the design, between those that it lies between"


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES.values()}), ids=lambda path: path.name)
def test_no_folder_holds_two_rooms(folder):
    assert len(list(folder.glob("*.py"))) - 1 <= MOST_FILES_OF_A_ROOM


BY_NAME = "HOME = 'base'\nimport_module(f'lrsegformer.layers.{HOME}')"


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("lrsegformer.hub", "import lrsegformer.errors", {"lrsegformer.errors"}),
        (
            "lrsegformer.hub",
            "def f():\n    from lrsegformer.models import to_vanilla",
            {"lrsegformer.models.to_vanilla"},
        ),
        ("lrsegformer.hub", "if TYPE_CHECKING:\n    from lrsegformer.cli import parser", {"lrsegformer.cli.parser"}),
        ("lrsegformer.hub", "from lrsegformer import STRATEGIES", {"lrsegformer"}),
        ("lrsegformer.hub", "home = 'lrsegformer.layers.orthogonal:Layer'", {"lrsegformer.layers.orthogonal"}),
        ("lrsegformer.layers", "lazy_attributes(__name__, {'Layer': 'base'})", {"lrsegformer.layers.base"}),
        ("lrsegformer.layers.registry", BY_NAME, {"lrsegformer.layers.base"}),
        ("lrsegformer.hub.card", BY_NAME, {"lrsegformer.layers.base"}),
        ("lrsegformer.hub", "import torch\nHOME = 'base'", set()),
    ],
    ids=["plain", "lazy", "type-only", "roof", "home", "handed-on", "by-name", "by-name-from-afar", "foreign"],
)
def test_the_reader_sees_every_kind_of_import(module, source, found):
    assert set(FILES) & set(imported(module, source)) == found
