"""Which cases of a test with several parameters `make test` runs; `make test-all` runs every one."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import pytest

MARKER, ONE_IN = "each_value", "one_in"
GOLDEN_RATIO = (5**0.5 - 1) / 2


def covers_each_value(case: Mapping[str, Hashable], values: Mapping[str, Sequence[Hashable]]) -> bool:
    """Whether a case is on the diagonal: of the cases there, every value of every parameter has one."""
    return not values or any(
        all(case[name] == among[step % len(among)] for name, among in values.items())
        for step in range(max(map(len, values.values())))
    )


def has_its_turn(number: int, every: int) -> bool:
    """Whether a case is kept of which one in `every` is: by the golden ratio, which falls in step with no period."""
    return number * GOLDEN_RATIO % 1 < 1 / every


def parameters_of(item: pytest.Function) -> dict[str, Hashable]:
    """The case's values by the objects they are; names of one table of cases count as one parameter."""
    tables = {}
    for mark in item.iter_markers("parametrize"):
        names = [name.strip() for name in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
        tables.update(dict.fromkeys(names, ",".join(names)))
    case: dict[str, Hashable] = defaultdict(tuple)
    for name, value in item.callspec.params.items():
        case[tables.get(name, name)] += (id(value),)
    return dict(case)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    A test marked `each_value` asks the same of all combinations, and no two of its parameters have to do with each
    other: those off the diagonal are slow. Parameters that the marker names are crossed with all that is left.
    """
    tests: dict[str, list[tuple[pytest.Item, dict[str, Hashable]]]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker(MARKER) and not item.get_closest_marker("slow"):
            tests[item.nodeid.partition("[")[0]].append((item, parameters_of(item)))
    for cases in tests.values():
        whole = cases[0][0].get_closest_marker(MARKER).args
        names = [name for name in cases[0][1] if name not in whole]
        values = {name: list(dict.fromkeys(case[name] for _, case in cases)) for name in names}
        for item, case in cases:
            if not covers_each_value(case, values):
                item.add_marker(pytest.mark.slow)
    _keep_one_in(items)


def _keep_one_in(items: list[pytest.Item]) -> None:
    """
    Of a test marked `one_in(n)` all cases but one in n are slow; every value of a parameter has its turn, whatever
    their number.
    """
    seen: dict[str, int] = defaultdict(int)
    for item in items:
        marker = item.get_closest_marker(ONE_IN)
        if marker and not item.get_closest_marker("slow"):
            (every,) = marker.args
            number = seen[item.nodeid.partition("[")[0]]
            seen[item.nodeid.partition("[")[0]] += 1
            if not has_its_turn(number, every):
                item.add_marker(pytest.mark.slow)


def one_of_each(cases: Sequence[tuple[str, str | None, str]]) -> list:
    """
    The cases `(task, strategy, scope)`; slow are all but the baselines and, in turn, each strategy in one place (a
    task's scope), until every strategy and every place has had its turn.
    """
    places = list(dict.fromkeys((task, scope) for task, strategy, scope in cases if strategy is not None))
    strategies = list(dict.fromkeys(strategy for _, strategy, _ in cases if strategy is not None))
    turns = range(max(len(places), len(strategies)))
    kept = {(places[turn % len(places)], strategies[turn % len(strategies)]) for turn in turns}
    missing = kept - {((task, scope), strategy) for task, strategy, scope in cases}
    assert not missing, f"give every strategy in every place: {missing} are none of the cases"
    return [
        pytest.param(
            case, marks=[pytest.mark.slow] * (case[1] is not None and ((case[0], case[2]), case[1]) not in kept)
        )
        for case in cases
    ]
