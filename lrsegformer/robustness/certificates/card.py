"""What a report of certificates leaves beside each model: its part of the results, and a section of its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrsegformer.hub.sections import keep_results
from lrsegformer.robustness.certificates.curves import save_certified_curves
from lrsegformer.robustness.certificates.rows import NOTHING
from lrsegformer.robustness.certificates.text import certificates_section


def keep_certificates(folder: str, report: Mapping[str, Any], model: str) -> bool:
    """
    Keep a model's part of a report in its folder and in its card ([`~lrsegformer.hub.sections.keep_results`]).

    Args:
        folder (`str`): of the model; a Hub id keeps nothing, and neither does a model without any certificate.
        report (`dict`): what `results.json` holds.
        model (`str`): the model's label in it.
    """
    own = part_of(report, model)
    if all(row["method"] == NOTHING for row in own["rows"]):
        return False
    return keep_results(
        folder,
        "certificates",
        own,
        certificates_section(own),
        report["models"][model]["files"],
        lambda path: save_certified_curves(own["models"], own["rows"], path),
    )


def part_of(report: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The report as if it were of this model alone; without pictures and command, which name other folders."""
    found = {name: value for name, value in report["models"][model].items() if name != "pictures"}
    rows = [row for row in report["rows"] if row["model"] == model]
    own = {name: value for name, value in report.items() if name != "command"}
    return {**own, "models": {model: found}, "rows": rows}
