"""Tables of the model card, above all the one of Lipschitz bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lrsegformer.certification.text import NORM_LABELS, network_lines, round_up
from lrsegformer.hub.markdown import table


def bounds_section(report: Mapping[str, Any]) -> str:
    """Proven bounds and measured estimates in columns of their own, so that neither passes for the other."""
    rows = [
        (f"`{layer['name']}`", layer["norm"], *_bound_cells(layer), _significant(layer.get("exact")))
        for layer in report.get("layers", ())
    ]
    head = report.get("head")
    if head:
        rows.append(("**head**", head["norm"] or "", *_bound_cells(head), ""))
        if head["guaranteed"] and head.get("product_of_bounds") is not None:
            product = {**head, "bound": head["product_of_bounds"]}
            rows.append(("**head**, product of its layers' bounds", head["norm"] or "", *_bound_cells(product), ""))
    if not rows:
        return ""
    parts = [
        "## Lipschitz bounds",
        table(
            ("map", "norm", "guaranteed bound", "estimate (no guarantee)", "norm of the saved weight, computed"), rows
        ),
    ]
    if head and head.get("note"):
        parts.append(f"Head: {head['note']}")
    parts += network_lines(report)
    if head and head.get("norms"):
        parts.append(_head_norms(head["norms"]))
    parts.append(
        "What a bound does not promise: it covers the named map alone, in the named norm, in exact arithmetic; not "
        "the encoder before it, nor the network as a whole. By itself it is no certificate of robustness for a "
        "prediction, and it says nothing about accuracy on shifted or attacked images."
    )
    return "\n\n".join(parts)


def _head_norms(norms: Mapping[str, Mapping[str, Any]]) -> str:
    """The head in each norm: what is proven of the saved weights, and whether training held it down."""
    rows = [
        (
            NORM_LABELS.get(name, name) if "to_relu_bound" in row else name,
            round_up(row["bound"]),
            "yes" if row["limited"] else "no",
            _significant(row.get("product_of_norms")),
        )
        for name, row in norms.items()
    ]
    header = (
        "norm of the head",
        "bound, proven of the saved weights",
        "limited by the constraint",
        "product of its layers' norms, computed",
    )
    return table(header, rows)


def _bound_cells(entry: Mapping[str, Any]) -> tuple[str, str]:
    bound = entry.get("bound")
    if not is_finite(bound):
        return "none", ""
    return (round_up(bound), "") if entry["guaranteed"] else ("none", _significant(bound))


def _significant(value: Any) -> str:
    return f"{value:.5g}" if is_finite(value) else ""


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
