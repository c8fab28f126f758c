"""Tables of the model card, above all the one of Lipschitz bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def bounds_section(report: Mapping[str, Any]) -> str:
    """Proven bounds and measured estimates in columns of their own, so that neither passes for the other."""
    rows = [
        (f"`{layer['name']}`", layer["norm"], *_bound_cells(layer), _significant(layer.get("exact")))
        for layer in report.get("layers", ())
    ]
    head = report.get("head")
    if head:
        rows.append(("**head**", head["norm"] or "", *_bound_cells(head), ""))
        if head["guaranteed"] and head.get("folded_bound") is not None:
            folded = {**head, "bound": head["folded_bound"]}
            rows.append(("**head**, linear maps multiplied out", head["norm"] or "", *_bound_cells(folded), ""))
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
    parts.append(
        "What a bound does not promise: it covers the named map alone, in the named norm, in exact arithmetic; not "
        "the encoder before it, nor the network as a whole. By itself it is no certificate of robustness for a "
        "prediction, and it says nothing about accuracy on shifted or attacked images."
    )
    return "\n\n".join(parts)


def _bound_cells(entry: Mapping[str, Any]) -> tuple[str, str]:
    bound = entry.get("bound")
    if not is_finite(bound):
        return "none", ""
    return (_round_up(bound), "") if entry["guaranteed"] else ("none", _significant(bound))


def _significant(value: Any) -> str:
    return f"{value:.5g}" if is_finite(value) else ""


def _round_up(value: float, digits: int = 5) -> str:
    """Round away from what is not proven: a bound cut off at five digits may lie below the proven one."""
    if value == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    rounded = f"{value:.{digits}g}"
    return rounded if float(rounded) >= value else f"{float(rounded) + unit:.{digits}g}"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
