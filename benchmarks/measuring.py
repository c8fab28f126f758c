"""Time and memory of single calls, on the CPU and on a GPU."""

import ctypes
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

Result = TypeVar("Result")
FEWEST_ROUNDS = 3
SECONDS_PER_SAMPLE = 0.2  # faster calls are repeated within a sample
SLOW_CALL = 1.0  # seconds; beyond it, the first call tells well enough what the next ones cost
RESET_PEAK = "5"  # written to Linux's clear_refs: forget the peak of the resident set (man 5 proc_pid_clear_refs)


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """Wall-clock seconds of one call, and what it returned."""
    wait_for_gpu()
    start = time.perf_counter()
    result = action()
    wait_for_gpu()
    return time.perf_counter() - start, result


def wait_for_gpu() -> None:
    """Wait for what was launched on a GPU, where one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def interleaved(actions: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """
    Time actions beside each other: in every round each once, in an order that rotates from round to round, so that
    what else the machine does falls on all of them.

    Args:
        actions: by name; each is warmed up first.
        rounds (`int`): at most.
        seconds (`float`): of all rounds together, as long as 3 are made; what slow actions cost decides.

    Returns:
        `dict[str, list[float]]`: seconds a call, one a round; means where calls are too fast to be timed singly.
    """
    calls, seconds_a_round = {}, 0.0
    for name, action in actions.items():
        cost = timed(action)[0]
        if cost < SLOW_CALL:
            cost = timed(action)[0]
        calls[name] = max(1, round(SECONDS_PER_SAMPLE / cost))
        seconds_a_round += cost * calls[name]
    samples: dict[str, list[float]] = {name: [] for name in actions}
    order = list(actions)
    for _ in range(max(FEWEST_ROUNDS, min(rounds, int(seconds / seconds_a_round)))):
        for name in order:
            samples[name].append(statistics.fmean(timed(actions[name])[0] for _ in range(calls[name])))
        order.append(order.pop(0))
    return samples


def peak_memory(actions: Sequence[Callable[[], object]]) -> list[int]:
    """
    Peak bytes that each action holds at once, over what was held before it; each is called once, on the CPU.

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


def peak_resident(action: Callable[[], object]) -> int | None:
    """
    Bytes by which the process's resident set grows at most while `action` runs, as the kernel counts it: what the
    libraries under torch allocate for themselves and what the allocator holds back are in it.

    `None` where the system does not tell (anything but Linux).
    """
    peak_reset = Path("/proc/self/clear_refs")
    if not peak_reset.exists():
        return None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # Pages that earlier calls left in the heap would hide new allocations.
    peak_reset.write_text(RESET_PEAK)
    before = _of_process("VmRSS")
    action()
    return _of_process("VmHWM") - before


def peak_on_gpu(action: Callable[[], object]) -> int:
    """Peak bytes that torch's CUDA allocator hands out while `action` runs, over what it had handed out before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _of_process(field: str) -> int:
    """A size in bytes from Linux's `/proc/self/status`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}.")
