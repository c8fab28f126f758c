"""Markdown shared by the benchmarks: tables, the machine a run was made on, and sections of `docs/benchmarks.md`."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

DOCUMENT_HEAD = """# Benchmarks

Each section is written by the script that its command names, in one run; the next run replaces the text between the
section's markers. Figures are comparable within a section, not between machines.
"""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table; the first `text_columns` are aligned to the left, the others, figures, to the right."""
    lines = [header, ["---"] * text_columns + ["---:"] * (len(header) - text_columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def significant(value: float) -> str:
    """`value` with three significant digits, and never in scientific notation."""
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def median_and_spread(samples: Sequence[float], scale: float = 1.0) -> str:
    """
    `median ± half the interquartile range` of samples times `scale`, to the decimals that the median shows; a single
    sample is shown without a spread.
    """
    if len(samples) == 1:
        return significant(scale * samples[0])
    low, median, high = (scale * quartile for quartile in statistics.quantiles(samples, n=4, method="inclusive"))
    shown = significant(median)
    decimals = len(shown.partition(".")[2])
    return f"{shown} ±{(high - low) / 2:.{decimals}f}"


def processor_name() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    processors = Path("/proc/cpuinfo")
    if processors.exists():
        for line in processors.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on; fewer than the machine has where it is confined."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_header(distributions: Sequence[str]) -> str:
    """
    How a figure can be made again: command, date, machine and versions, as a Markdown list.

    Args:
        distributions (`Sequence[str]`): names of installed distributions to give the version of; absent ones are
            named as not installed.
    """
    script = Path(sys.argv[0]).resolve()
    command = shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]])
    versions = [f"Python {platform.python_version()}"]
    for name in distributions:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    return "\n".join(
        [
            f"- Command: `{command}`",
            f"- Date: {datetime.date.today().isoformat()}",
            f"- Machine: {processor_name()}, {usable_cores()} cores, {torch.get_num_threads()} torch threads, "
            f"{platform.system()}",
            f"- Versions: {', '.join(versions)}",
        ]
    )


def publish(text: str, document: Path | None, name: str) -> None:
    """Print a section, and put it into the document, where one was asked for, by [`replace_section`]."""
    print(text)
    if document is not None:
        replace_section(document, name, text)


def replace_section(document: Path, name: str, text: str) -> None:
    """
    Put `text` between the markers `<!-- name -->` and `<!-- /name -->` of a Markdown file.

    Everything outside the two markers stays as it is. A file that has no such section gets one at its end, and a
    file that does not exist is made.

    Raises:
        `ValueError`: if only one of the markers is there, or they stand in the wrong order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    section = f"{start}\n{text.strip()}\n{end}"
    content = document.read_text() if document.exists() else DOCUMENT_HEAD
    if start not in content and end not in content:
        content = f"{content.rstrip()}\n\n{section}\n"
    else:
        before, found_start, rest = content.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise ValueError(f"{document}: expected {start} and then {end}.")
        content = before + section + after
    document.write_text(content)
