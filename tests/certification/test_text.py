"""The printed report: aligned, within 100 columns, nothing rounded below what is proven."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer import STRATEGIES
from lrsegformer.certification import format_report
from lrsegformer.certification.text import head_lines, round_up

CASES = [
    *((strategy, scope, "segmentation") for strategy in STRATEGIES for scope in ("head", "projections")),
    *((strategy, "head", "classification") for strategy in STRATEGIES),
    (None, "head", "segmentation"),
    (None, "head", "classification"),
]


def tables_of(text: str) -> list[list[str]]:
    """The lines of each table: blocks are apart by an empty line, and the first and the last are no tables."""
    return [block.splitlines() for block in text.split("\n\n")[1:-1]]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


@pytest.mark.parametrize(("strategy", "scope", "task"), CASES)
def test_tables_are_complete_and_aligned(make_model, strategy, scope, task):
    report = make_model(strategy, scope, task).lipschitz_report()
    text = format_report(report)
    assert max(len(line) for line in text.splitlines()) <= 100
    tables = tables_of(text)
    assert len(tables) == (1 if strategy is None else 2)
    for table in tables:
        # Every column but the first two ends at the right, so that lines end together.
        assert len({len(line) for line in table}) == 1
        assert len({len(cells(line)) for line in table}) == 1
    for row, line in zip(report["layers"], tables[0][1:], strict=False):
        name, norm, bound, guaranteed, limited, _, *norms = cells(line)
        assert row["name"].endswith(name) and norm == row["norm"]
        assert row["bound"] <= float(bound) <= row["bound"] * 1.0002
        assert (guaranteed, limited) == ("yes", "yes" if row["limited"] else "no")
        assert [float(value) for value in norms] == pytest.approx(list(row["operator_norms"].values()), rel=1e-3)
    for row, line in zip(report["head"]["norms"].values(), tables[-1][1:], strict=True):
        shown = cells(line)
        assert ("yes" in shown) == row["limited"] and ("no" in shown) != row["limited"]
        bound = float(shown[2 if task == "segmentation" else 1])
        assert row["bound"] <= bound <= row["bound"] * 1.0002


def test_text_of_a_report_that_was_saved(make_model):
    report = make_model("orthogonal").lipschitz_report(torch.bfloat16)
    assert format_report(json.loads(json.dumps(report))) == format_report(report)
    assert format_report(report).startswith("Strategy orthogonal, scope head, computing in bfloat16\n")


def test_lines_of_the_head(make_model):
    bounded, product = head_lines(make_model("stable_softplus").lipschitz_report()["head"])
    assert bounded.startswith("Bound of the head (linf): ") and "guaranteed" in bounded and "product" not in bounded
    assert product.startswith("Product of its layers' bounds: ")
    (unbounded,) = head_lines(make_model("stable_softplus", "projections").lipschitz_report()["head"])
    assert unbounded.startswith("Bound of the head: none. ") and "guaranteed" not in unbounded


def test_a_diverged_model_has_a_text(make_model):
    model = make_model("jacobian_norm")
    with torch.no_grad():
        model.decode_head.classifier.weight.fill_(float("nan"))
    classifier = next(line for line in format_report(model.lipschitz_report()).splitlines() if "classifier" in line)
    assert cells(classifier)[2] == "-"


@given(st.floats(1e-12, 1e12), st.integers(2, 8))
def test_bounds_are_never_rounded_down(value, digits):
    assert value <= float(round_up(value, digits)) <= value * (1 + 10.0 ** (1 - digits) * 1.01)
