"""
The speed benchmark on a GPU: bfloat16, eager and compiled, as images a second and peak memory.

    python benchmarks/gpu.py --eager_only

prints the tables by themselves; compilation takes minutes.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from cases import SIDE, Setup, Workload, loss_actions
from equality import OURS, STOCK, Action, both, check_equal
from measuring import interleaved, peak_on_gpu
from report import markdown_table, run_header, significant

from lrsegformer.layers.registry import STRATEGIES

BATCH, CHECK_BATCH = 16, 2
SECONDS = 5.0  # of each case's rounds
GIGABYTES = 1e-9
NO_GPU = "Not measured: the run had no GPU (CUDA) at hand."


def gpu_table(rounds: int, kinds: tuple[bool, ...] = (False, True)) -> list[str]:
    """
    Headings and tables of the GPU, or a line that there was none.

    Args:
        rounds (`int`): of the calls that take turns.
        kinds (`tuple[bool, ...]`): whether compiled.
    """
    heading = "### On a GPU, bfloat16"
    if not torch.cuda.is_available():
        return [heading, NO_GPU]
    rows = []
    for compiled in kinds:
        # In float32 the two have to agree; what is timed is the same code under autocast.
        for label, actions in gpu_cases(Setup("cuda", compiled=compiled), CHECK_BATCH):
            check_equal(label, actions)
        for label, actions in gpu_cases(Setup("cuda", bfloat16=True, compiled=compiled), BATCH):
            rows.append(gpu_row(label, actions, rounds))
    quantities = [f"{who}, {what}" for what in ("images/s", "peak GB") for who in (OURS, STOCK)]
    header = ["", *quantities[:2], "ours / stock", *quantities[2:], "ours / stock"]
    machine = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; batch {BATCH}, {SIDE}x{SIDE} pixels."
    return [heading, machine, markdown_table(header, rows), *scopes_table(rounds)]


def scopes_table(rounds: int) -> list[str]:
    """Training steps of B0 under the scopes that reach the encoder, beside ours without a constraint."""
    cases = {f"{name}, scope network": (name, "network") for name in STRATEGIES}
    cases |= {f"{name}, scope certified": (name, "certified") for name in ("orthogonal", "spectral_norm")}
    workload, rows = Workload("b0", BATCH, setup=Setup("cuda", bfloat16=True)), []
    for label, (strategy, scope) in cases.items():
        workload.add(label, strategy, scope=scope)
        actions = {name: workload.step(name) for name in (label, OURS)}
        times = {name: statistics.median(samples) for name, samples in interleaved(actions, rounds, SECONDS).items()}
        peaks = [GIGABYTES * peak_on_gpu(action) for action in actions.values()]
        rates = [BATCH / times[label], BATCH / times[OURS], times[label] / times[OURS]]
        rows.append([label, *map(significant, [*rates, *peaks])])
        del workload.models[label]
    header = [
        "training step B0, eager",
        "images/s",
        "without, images/s",
        "time / without",
        "peak GB",
        "without, peak GB",
    ]
    return ["### Scopes that reach the encoder, on a GPU, bfloat16", markdown_table(header, rows)]


def gpu_cases(setup: Setup, batch: int) -> Iterator[tuple[str, dict[str, Action]]]:
    """The cases of the CPU's table of times, one at a time, so that one workload is in memory."""
    kind = "compiled" if setup.compiled else "eager"
    for architecture in ("b0", "b2"):
        name = f"{architecture.upper()}, {kind}"
        workload = Workload(architecture, batch, setup=setup)
        # Equal seeds drop different entries in the two heads; the check is in float32.
        with nullcontext() if setup.bfloat16 else workload.without_head_dropout():
            yield f"training step {name}", _fresh(both(workload.step))
            yield f"decode head {name}, forward and backward", _fresh(both(workload.head))
        workload = Workload(architecture, batch, training=False, setup=setup)
        yield f"inference to logits {name}", _fresh(both(workload.logits))
        if architecture == "b0":
            yield f"inference to full-size classes {name}", _fresh(both(workload.classes))
    yield f"loss, {kind}", _fresh(loss_actions(batch, setup=setup))


def gpu_row(label: str, actions: Mapping[str, Action], rounds: int) -> list[str]:
    """Images a second and peak gigabytes of ours and stock, each with the ratio."""
    times = interleaved(actions, rounds, SECONDS)
    rates = {name: BATCH / statistics.median(samples) for name, samples in times.items()}
    peaks = {name: GIGABYTES * peak_on_gpu(action) for name, action in actions.items()}
    cells = [label]
    for figures in (rates, peaks):
        values = [figures[OURS], figures[STOCK], figures[OURS] / figures[STOCK]]
        cells += [significant(value) for value in values]
    return cells


def _fresh(actions: dict[str, Action]) -> dict[str, Action]:
    """Forget what was compiled before: torch compiles one function for a few models only."""
    torch.compiler.reset()
    return actions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--eager_only", action="store_true")
    arguments = parser.parse_args()
    kinds = (False,) if arguments.eager_only else (False, True)
    print("\n\n".join([run_header(["torch", "transformers"]), *gpu_table(arguments.rounds, kinds)]))


if __name__ == "__main__":
    main()
