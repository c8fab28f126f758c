"""What `make test` leaves to `make test-all`: combinations, and never a value."""

from itertools import product

import pytest

from tests.selection import covers_each_value, has_its_turn

VALUES = {"strategy": ["a", "b", "c"], "scope": [0, 1], "way": [4, 5, 7, 9]}


def test_the_diagonal_has_every_value_and_no_more_cases_than_the_longest_parameter():
    cases = [dict(zip(VALUES, case, strict=True)) for case in product(*VALUES.values())]
    kept = [case for case in cases if covers_each_value(case, VALUES)]
    assert len(kept) == 4 < len(cases)
    assert all({case[name] for case in kept} == set(among) for name, among in VALUES.items())


@pytest.mark.each_value
@pytest.mark.parametrize(("row", "name"), [pytest.param(0, "a", marks=pytest.mark.slow), (1, "b"), (2, "b"), (3, "c")])
@pytest.mark.parametrize("column", [0, 1])
def test_a_crossed_test_is_cut_to_its_diagonal(request, row, name, column):
    same = [item for item in request.session.items if getattr(item, "originalname", "") == request.node.originalname]
    cases = [(item.callspec.params["column"], item.callspec.params["row"]) for item in same]
    if "not slow" in request.config.option.markexpr:
        assert set(cases) <= {(0, 1), (1, 2), (0, 3)}


@pytest.mark.parametrize("every", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_one_case_in_some_has_its_turn_and_so_has_every_value(every, size):
    kept = [number for number in range(4 * every * size) if has_its_turn(number, every)]
    assert abs(len(kept) - 4 * size) <= 2
    assert {number % size for number in kept} == set(range(size))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", range(9))
def test_one_case_in_three_is_left(request, case):
    same = [item for item in request.session.items if getattr(item, "originalname", "") == request.node.originalname]
    if "not slow" in request.config.option.markexpr:
        assert {item.callspec.params["case"] for item in same} == {0, 2, 5, 7}
