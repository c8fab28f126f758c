"""Time and memory of single calls on the CPU."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from torch.profiler import ProfilerActivity, profile, record_function

Result = TypeVar("Result")


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """Wall-clock seconds of one call, and what it returned."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def peak_memory(actions: Sequence[Callable[[], object]]) -> list[int]:
    """
    Peak bytes that each action holds at once, over what was held before it; each is called once.

    From torch's profiler, which records every allocation and release of torch's CPU allocator: results, saved tensors
    and the workspace that torch hands to LAPACK. Buffers that the BLAS library allocates for itself are not in it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for number, action in enumerate(actions):
            with record_function(f"action {number}"):
                action()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    spans = {event["name"]: event for event in events if event.get("cat") == "user_annotation"}
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    changes.sort(key=lambda event: event["ts"])
    peaks = []
    for number in range(len(actions)):
        span = spans[f"action {number}"]
        held = peak = 0
        for change in changes:
            if span["ts"] <= change["ts"] <= span["ts"] + span["dur"]:
                held += change["args"]["Bytes"]
                peak = max(peak, held)
        peaks.append(peak)
    return peaks
