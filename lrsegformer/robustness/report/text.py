"""The report as Markdown: a table of scores, the summaries, and every row with all that it hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lrsegformer.certification.text import round_up
from lrsegformer.choices import NORMS_IN_255THS
from lrsegformer.hub.markdown import plain, table
from lrsegformer.robustness.report.rows import IN_MEMORY, SHOWN, STRONGER
from lrsegformer.robustness.shift.data_sets import IMAGENET_C

_HEADINGS = {"attack": "Attacks", "corruption": "Corruptions", "shifted": "Shifted data", "train": "Training images"}


def report_text(report: Mapping[str, Any]) -> str:
    """
    `results.md`.

    Args:
        report (`dict`): what `results.json` holds.
    """
    rows, task = report["rows"], report["task"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = SHOWN[task]
    parts = ["# Robustness", introduction(report), "## Inputs", _inputs_table(report)]
    for kind, heading in _HEADINGS.items():
        chosen = [row for row in rows if row["kind"] in ("clean", kind)]
        if any(row["kind"] == kind for row in chosen):
            parts += [f"## {heading}", _comparison(chosen, models, names)]
        source = {"corruption": IN_MEMORY, "shifted": IMAGENET_C}.get(kind)
        summaries = [row for row in report["corruption_summary"] if row["source"] == source]
        if summaries:
            parts += ["Mean over corruptions and severities:", _corruption_table(summaries)]
    if not any(row["kind"] != "clean" for row in rows):
        parts += ["## Clean images", _comparison(rows, models, names)]
    if report["gradient_masking"]:
        parts += ["## Are gradients masked?", _masking_table(report["gradient_masking"])]
    if report["reliability"]:
        parts += ["## Beyond accuracy (estimates, measured on these images)", _reliability_table(report, names)]
    if any(report["bounds"].values()):
        parts += ["## Proven bounds of the heads", _bounds_table(report["bounds"])]
    parts += ["## Every row", _long_table(rows, names)]
    warnings = dict.fromkeys(f"{row['model']}, {row['condition']}: {w}" for row in rows for w in row["warnings"])
    if warnings:
        parts += ["Warnings of the attacks:", "\n".join(f"- {plain(warning)}" for warning in warnings)]
    parts += ["Versions:", "\n".join(f"- {letter}: {text}" for text, letter in _version_letters(rows).items())]
    return "\n\n".join(parts) + "\n"


def introduction(report: Mapping[str, Any]) -> str:
    """What was scored, and how the scores are to be read."""
    images, of = report["images"], report["of"]
    subset = (
        f"all {of} validation images" if images == of else f"a seeded subset of {images} of {of} validation images"
    )
    lines = [
        f"{report['task'].capitalize()} on {plain(report['dataset'])}: {subset} (seed {report['seed']}). Scores "
        "are in percent. Radii are in [0, 1] pixel space, those of linf and per_pixel_l2 in 1/255. A score under "
        "attack is an estimate from the attacks that ran: stronger ones may find less.",
    ]
    if report["task"] == "segmentation":
        lines.append(
            "Pixel accuracy under attack takes each image's worst candidate, the clean image among them; mIoU takes "
            "the choice of candidates that a greedy search finds worst for the data set. Scored at "
            f"{report['score_at']} size; ignored pixels never count."
        )
    return " ".join(lines)


def _inputs_table(report: Mapping[str, Any]) -> str:
    inputs = report["inputs"]
    text = table(
        ["model", "input", "fingerprint of the images"],
        [[plain(model), one["size"], one["subset"]] for model, one in inputs.items()],
    )
    text += "\n\nThe images of each fingerprint are listed in subsets/."
    if len({one["size"] for one in inputs.values()}) > 1:
        text += (
            " A radius is one of input pixels, so models of different inputs are attacked at different resolutions."
        )
    return text


def _comparison(rows: Sequence[Mapping[str, Any]], models: Sequence[str], names: Mapping[str, str]) -> str:
    conditions = list(dict.fromkeys((row["kind"], row["condition"]) for row in rows))
    found = {(row["model"], row["kind"], row["condition"]): row for row in rows}
    header = ["condition", *(f"{plain(model)}: {name}" for model in models for name in names.values())]
    lines = [
        [
            condition_title(next(row for row in rows if (row["kind"], row["condition"]) == condition)),
            *(percent(found.get((model, *condition), {}).get(score)) for model in models for score in names),
        ]
        for condition in conditions
    ]
    return table(header, lines)


def condition_title(row: Mapping[str, Any]) -> str:
    """What a table calls a row's condition."""
    if row["kind"] in ("clean", "train"):
        return row["kind"]
    parts = [plain(row["name"]), "targeted" if row["targeted"] else "", row["norm"] or ""]
    if row["radius"] is not None:
        parts.append(f"{row['radius']:g}{'/255' if row['norm'] in NORMS_IN_255THS else ''}")
    if row["severity"] is not None:
        parts.append(f"severity {row['severity']}")
    return " ".join(part for part in parts if part)


def _corruption_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The summaries of one source, and its means for each corruption."""
    header = ["model", "score", "clean", "mean under corruption", "retention (mean / clean)"]
    lines = [
        [plain(row["model"]), row["score"], *(percent(row[name]) for name in ("clean", "mean", "retention"))]
        for row in summaries
    ]
    note = ""
    if any(row["mce"] is not None for row in summaries):
        in_memory = summaries[0]["source"] == IN_MEMORY
        header.append("in-memory mCE" if in_memory else "mCE")
        lines = [[*line, percent(row["mce"])] for line, row in zip(lines, summaries, strict=True)]
        if in_memory:
            note = "\n\nThe in-memory mCE is not comparable with published mCE: its images are no JPEG files."
    names = list(summaries[0]["per_corruption"])
    each = [[name, *(percent(row["per_corruption"][name]) for row in summaries)] for name in names]
    heads = ["corruption", *(f"{plain(row['model'])}: {row['score']}" for row in summaries)]
    return f"{table(header, lines)}{note}\n\nMean over severities:\n\n{table(heads, each)}"


def _masking_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["model", "input gradients below 1e-8", f"pgd minus {' or '.join(STRONGER)}, largest", "verdict"]
    lines = [
        [
            plain(row["model"]),
            percent(row["small_gradient_share"]),
            "not run" if row["largest_gap"] is None else percent(row["largest_gap"]),
            "; ".join(row["flags"]) or _unsuspicious(row),
        ]
        for row in rows
    ]
    return table(header, lines)


def _unsuspicious(row: Mapping[str, Any]) -> str:
    if row["largest_gap"] is None:
        return f"gradients are not small; --attacks pgd {STRONGER[0]} at one radius would tell more"
    return "nothing suspicious"


def _reliability_table(report: Mapping[str, Any], names: Mapping[str, str]) -> str:
    segments = report["task"] == "segmentation"
    header = ["model", "calibration error (15 bins)", "overconfidence"]
    header += ["small-object IoU", "small objects"] if segments else []
    header += ["local Lipschitz estimate, median", "largest"]
    header += [f"gap in {name}, training minus validation" for name in names.values()]
    lines = []
    for row in report["reliability"]:
        line = [plain(row["model"]), percent(row["expected_calibration_error"]), percent(row["overconfidence"])]
        line += [percent(row["small_object_iou"]), str(row["num_small_objects"])] if segments else []
        line += [f"{row[f'local_lipschitz_estimate_{which}']:.4g}" for which in ("median", "largest")]
        lines.append([*line, *(percent(row["train_validation_gap"][score]) for score in names)])
    text = table(header, lines)
    if segments and report["reliability"]:
        share = report["reliability"][0]["area_share"]
        text += f"\n\nA small object is a connected part of one class with at most {share:.2%} of the image's pixels."
    return text + (
        "\n\nThe local Lipschitz estimate is the steepest slope, in l2, that a power iteration found from pixels in "
        "[0, 1] to the logits at their own resolution. It bounds nothing."
    )


def _bounds_table(bounds: Mapping[str, Mapping[str, Any] | None]) -> str:
    header = ["model", "strategy", "norm", "bound of the head", "guaranteed"]
    lines = []
    for model, head in bounds.items():
        if head is None:
            continue
        bound = "none" if head["bound"] is None else round_up(head["bound"])
        row = [
            plain(model),
            head["strategy"] or "none",
            head["norm"] or "-",
            bound,
            "yes" if head["guaranteed"] else "no",
        ]
        lines.append(row)
    notes = dict.fromkeys(f"{plain(model)}: {head['note']}" for model, head in bounds.items() if head is not None)
    return table(header, lines) + "\n\n" + "\n".join(f"- {note}" for note in notes)


def _long_table(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    letters = _version_letters(rows)
    reached = any(row["measured"].get("target_reached") is not None for row in rows)
    header = ["model", "condition", "norm", "radius", "steps", "restarts", *names.values()]
    header += ["at target"] * reached
    header += ["input", "images", "subset", "seed", "seconds", "processes", "versions", "pictures"]
    lines = []
    for row in rows:
        line = [plain(row["model"]), condition_title(row), row["norm"] or "-"]
        line += ["-" if row[name] is None else f"{row[name]:g}" for name in ("radius", "steps", "restarts")]
        line += [percent(row.get(score)) for score in names]
        line += [percent(row["measured"].get("target_reached"))] * reached
        line += [row["input"], f"{row['images']} of {row['of']}", row["subset"]]
        line += [str(row["seed"]), f"{row['seconds']:.1f}"]
        pictures = f"[sheet](sheets/{quote(row['sheet'])})" if row["sheet"] else "-"
        lines.append([*line, f"{row['processes']} ({row['device']})", letters[version_text(row)], pictures])
    return table(header, lines)


def _version_letters(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The sets of versions among the rows, each with a letter."""
    texts = dict.fromkeys(version_text(row) for row in rows)
    return {text: chr(ord("A") + number) for number, text in enumerate(texts)}


def version_text(row: Mapping[str, Any]) -> str:
    """The packages that a row was made with."""
    return ", ".join(f"{package} {number}" for package, number in row["versions"].items())


def percent(value: float | None) -> str:
    """A score from 0 to 1 in percent."""
    return "-" if value is None else f"{100 * value:.2f}"
