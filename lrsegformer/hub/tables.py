"""Tables of the model card: Lipschitz bounds, and the scores of an evaluation by protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lrsegformer.certification.text import NORM_LABELS, network_lines, round_up
from lrsegformer.hub.markdown import plain, table

METRIC_NAMES = {
    "mean_iou": "Mean IoU",
    "mean_accuracy": "Mean accuracy",
    "overall_accuracy": "Overall accuracy",
    "accuracy": "Accuracy",
    "precision": "Precision (macro)",
    "recall": "Recall (macro)",
    "f1": "F1 (macro)",
    "matthews_correlation": "Matthews correlation",
}
_PROTOCOLS = {"whole": "whole image", "slide": "sliding window", "multi_scale_flip": "several sizes, mirrored"}
_SIZES = {"original": "the annotations' own", "resized": "the input's"}


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


def evaluation_section(report: Mapping[str, Any]) -> str:
    """
    The section of an `evaluation.json`: its scores by protocol and by the size at which they are counted.

    Args:
        report (`dict`): `dataset`, `split`, `num_images`, `of`, `input`, `protocols`, `settings`, `versions`.
    """
    scored, of = report["num_images"], report["of"]
    images = f"all {of} images" if scored == of else f"{scored} of the {of} images"
    names = [name for name in METRIC_NAMES if any(name in scores for _, _, scores in _rows_of(report))]
    rows = [
        (_PROTOCOLS[protocol], _SIZES.get(size, size), *(_score(scores.get(name)) for name in names))
        for protocol, size, scores in _rows_of(report)
    ]
    parts = [
        "## Evaluation by protocol",
        f"Scored on {images} of the split {plain(report['split'])} of {plain(report['dataset'])}, from inputs of "
        f"{report['input']}, by the saved image processor, in float32.",
        table(("protocol", "scored at size", *(METRIC_NAMES[name] for name in names)), rows),
        *_how(report["settings"]),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in report["versions"].items()) + ".",
    ]
    return "\n\n".join(parts)


def _rows_of(report: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [
        (protocol, size, scores)
        for protocol in _PROTOCOLS
        for size, scores in report["protocols"].get(protocol, {}).items()
    ]


def _how(settings: Mapping[str, Any]) -> list[str]:
    """How the windows of the sliding protocol lie, and the sizes of the other, where they ran."""
    said = []
    if "slide" in settings:
        said.append(f"Windows of {settings['slide']['window']} pixels every {settings['slide']['stride']}.")
    if "multi_scale_flip" in settings:
        scales = ", ".join(f"{scale:g}" for scale in settings["multi_scale_flip"]["scales"])
        said.append(f"Sizes: {scales} times the input's, each also mirrored.")
    return [" ".join(said)] if said else []


def _score(value: Any) -> str:
    return f"{value:.4f}" if is_finite(value) else "-"


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
