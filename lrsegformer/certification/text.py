"""The report as text: aligned tables that fit 100 columns. Bounds are rounded up, never down."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

NORM_LABELS = {
    "per_pixel_l2": "per-pixel l2",
    "per_pixel_l1": "per-pixel l1",
    "l2": "l2 over the image (sides multiples of 32)",
}


def format_report(report: Mapping[str, Any]) -> str:
    """
    What `model.lipschitz_report()` returned, for people.

    A table of the layers (bound, whether it is guaranteed and limited by the constraint, the share of it that the
    weight uses, the weight's own norms) and one of the head in each norm. Bounds are rounded up in the last digit
    shown, other figures to the nearest.

    Args:
        report (`dict`): the report, also as read back from `all_results.json`.

    Returns:
        `str`: lines of at most 100 characters for names and figures of usual length.

    Example:

    ```python
    >>> from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation
    >>> from lrsegformer.certification import format_report

    >>> model = LRSegformerForSemanticSegmentation(LRSegformerConfig(lipschitz_strategy="orthogonal"))
    >>> print(format_report(model.lipschitz_report()).splitlines()[0])
    Strategy orthogonal, scope head, computing in float32

    ```"""
    if report["strategy"] is None:
        parts = [f"No strategy: no layer is constrained; computing in {report['dtype']}"]
    else:
        parts = [f"Strategy {report['strategy']}, scope {report['scope']}, computing in {report['dtype']}"]
    if report["layers"]:
        parts.append(_layer_table(report["layers"]))
    lines = [*head_lines(report["head"]), *network_lines(report)]
    parts += [_norm_table(report["head"]["norms"])] if report["head"]["norms"] else []
    parts.append("\n".join(_wrapped(lines)))
    return "\n\n".join(parts)


def head_lines(head: Mapping[str, Any]) -> list[str]:
    """The bound of the head in the strategy's norm, or that there is none, and what it is about."""
    if head["bound"] is None:
        return [f"Bound of the head: none. {head['note']}"]
    lines = [f"Bound of the head ({head['norm']}): {round_up(head['bound'])}, guaranteed. {head['note']}"]
    if head["product_of_bounds"] is not None:
        lines.append(f"Product of its layers' bounds: {round_up(head['product_of_bounds'])}.")
    return lines


def network_lines(report: Mapping[str, Any]) -> list[str]:
    """The bound of the network as a whole, or that there is none, where the report has a word on it."""
    network = report.get("network")
    if network is None:
        return []
    if network["bound"] is None:
        return [f"Bound of the network: none. {network['note']}"]
    height, width = network["image_size"]
    per_pixel, features = (
        round_up(value) for value in (network["norms"]["per_pixel_l2"], network["bound_of_features"])
    )
    return [
        f"Bound of the network ({network['norm']}, {width}x{height} pixels): {round_up(network['bound'])}, "
        f"guaranteed; from the largest change of a pixel {per_pixel}; to the features before the classifier's rows "
        f"{features}. {network['note']}"
    ]


def round_up(value: float | None, digits: int = 5) -> str:
    """`value` >= 0 in `digits` digits, rounded away from what is not proven; `"-"` where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    rounded = f"{value:.{digits}g}"
    return rounded if float(rounded) >= value else f"{float(rounded) + unit:.{digits}g}"


def _layer_table(layers: Sequence[Mapping[str, Any]]) -> str:
    header = ("layer", "norm", "bound", "guaranteed", "limited", "used", "l2", "linf", "l1")
    rows = [
        (
            short_name(layer["name"]),
            layer["norm"],
            round_up(layer["bound"]),
            _yes_or_no(layer["guaranteed"]),
            _yes_or_no(layer["limited"]),
            _percent(layer["share"]),
            *(_operator_norm(layer, norm) for norm in layer["operator_norms"]),
        )
        for layer in layers
    ]
    return "\n".join(_aligned([header, *rows], texts=2))


def _norm_table(norms: Mapping[str, Mapping[str, Any]]) -> str:
    # A classifier takes one vector: there is no ReLU before it, and its l2 norm is not one over pixels.
    if any("to_relu_bound" not in row for row in norms.values()):
        rows = [(name, round_up(row["bound"]), _yes_or_no(row["limited"])) for name, row in norms.items()]
        return "\n".join(_aligned([("bound of the head, by norm", "to the logits", "limited"), *rows], texts=1))
    header = ("bound of the head, by norm", "to the ReLU", "to the logits", "limited", "product of norms")
    rows = [
        (
            NORM_LABELS.get(name, name),
            round_up(row["to_relu_bound"]),
            round_up(row["bound"]),
            _yes_or_no(row["limited"]),
            _nearest(row["product_of_norms"]),
        )
        for name, row in norms.items()
    ]
    return "\n".join(_aligned([header, *rows], texts=1))


def _aligned(rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Columns two blanks apart; the first `texts` of them start at the left, the others end at the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if position < texts else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _wrapped(lines: Sequence[str], width: int = 100) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width)]


def short_name(name: str) -> str:
    """A layer's name without what all of its kind have in theirs."""
    parts = name.removeprefix("decode_head.").removeprefix("segformer.").split(".")
    kept = [part for part, before in zip(parts, ["", *parts], strict=False) if part != before]
    return ".".join(part for part in kept if part not in ("stages", "blocks", "attention", "mlp"))


def _operator_norm(layer: Mapping[str, Any], norm: str) -> str:
    value = layer["operator_norms"][norm]
    return f"<={round_up(value, 4)}" if norm in layer.get("bounded_norms", ()) else _nearest(value)


def _nearest(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:.4g}%"


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
