"""
Time and memory of our model beside stock SegFormer's: training steps, decode head, loss, inference, strategies, sizes.

    pip install -c constraints.txt '.[bench]'
    python benchmarks/speed.py --output docs/benchmarks.md

Both compute with the same weights on the same inputs, and the run stops where they do not agree. Writes the section
`speed` and, beside the document, a plot. Where CUDA is at hand, a table for the GPU in bfloat16 follows.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from cases import CLASSES, SIDE, Workload, loss_actions
from equality import GRADIENT_TOLERANCE, OURS, STOCK, TOLERANCE, Action, both, check_equal
from figures import MEMORY, PIXELS, STRATEGY, TIME, Figure, figure_tables
from gpu import gpu_table
from measuring import FEWEST_ROUNDS, interleaved, peak_memory, peak_resident
from plot import plot_figures
from report import publish, run_header

from lrsegformer import STRATEGIES

STEP_BATCH, MEMORY_BATCH, LOSS_BATCH, INFERENCE_BATCH = 2, 4, 4, 2
STEP_GOALS = {"b0": 3.0, "b2": 2.7}
HEAD_GOALS = {"b0": 3.0, "b2": 4.0}
LOGITS_GOALS = {"b0": 1.6, "b2": 1.8}
STRATEGY_GOAL, JACOBIAN_GOAL, NETWORK_GOAL, CERTIFIED_GOAL, PIXEL_GOAL = 1.10, 1.3, 1.3, 1.5, 4.2
SIDES = (256, 512, 1024)

EXPLANATION = f"""
Float32 on the CPU, {SIDE}x{SIDE} pixels, {CLASSES} classes, against `SegformerForSemanticSegmentation` of transformers
with the same configuration and, where ours is the baseline, the same weights: outputs are held to stock's to
{TOLERANCE:.0e} and gradients to {GRADIENT_TOLERANCE:.0e} (norm of the difference over the norm; classes: share that
differs), or the run stops. Times are medians in milliseconds, with half the interquartile range over the rounds; in
every round each competitor is timed once, in rotating order, after a warm-up. Ratios are those of the medians.

A training step is forward with labels and backward, batch {STEP_BATCH}, without the optimizer; strategies add their
penalty. The *encoder alone* is the same module in both: what is left of a step when head and loss cost nothing, so
stock's step over it is the ceiling of what folding the head can give.

Peak memory is what torch's allocator holds at most, over what it held before the call: exact, from the profiler's
record of every allocation; weights and inputs do not count, gradients do. *Resident* is the growth of the process as
the kernel counts it, with the libraries' own buffers and what the allocator holds back (Linux).
"""


@cache
def check_step(architecture: str) -> None:
    """Hold a training step with one image to stock's."""
    workload = Workload(architecture, batch=1)
    with workload.without_head_dropout():
        check_equal(f"training step {architecture}", both(workload.step))


def training_step(architecture: str, rounds: int) -> list[Figure]:
    check_step(architecture)
    workload, name, strategy = Workload(architecture, STEP_BATCH), architecture.upper(), "stable_softplus"
    workload.add(strategy, strategy)
    actions = {model: workload.step(model) for model in (OURS, STOCK, strategy)}
    actions |= {"encoder": workload.encoder(OURS), "stock's encoder": workload.encoder(STOCK)}
    times, goal = interleaved(actions, rounds, 35), STEP_GOALS[architecture]
    return [
        Figure(TIME, f"training step {name}, baseline", times[OURS], times[STOCK], goal),
        Figure(TIME, f"training step {name}, {strategy}", times[strategy], times[STOCK], goal),
        Figure(TIME, f"ceiling {name}: encoder alone, stock's whole step", times["encoder"], times[STOCK]),
        Figure(TIME, f"encoder alone {name}, of both", times["encoder"], times["stock's encoder"]),
    ]


def memory_figures(
    label: str,
    actions: Mapping[str, Action],
    goal: float,
    prepare: Callable[[], None] = lambda: None,
    with_resident: bool = True,
) -> list[Figure]:
    """What torch holds, and what the process does; `prepare` releases what the last call left."""

    def peak(name: str, of: Callable[[Action], int | None]) -> int | None:
        prepare()
        return of(actions[name])

    held = {name: peak(name, lambda action: peak_memory([action])[0]) for name in (OURS, STOCK)}
    figures = [Figure(MEMORY, label, [held[OURS]], [held[STOCK]], goal)]
    if not with_resident:
        return figures
    resident = {name: peak(name, peak_resident) for name in (OURS, STOCK)}
    if None not in resident.values():
        figures.append(Figure(MEMORY, f"{label}, resident", [resident[OURS]], [resident[STOCK]]))
    return figures


def step_memory(architecture: str) -> list[Figure]:
    check_step(architecture)
    workload = Workload(architecture, MEMORY_BATCH)
    label = f"training step {architecture.upper()}, batch {MEMORY_BATCH}"
    return memory_figures(label, both(workload.step), 0.5, workload.clear_gradients, architecture == "b0")


def head(architecture: str, rounds: int) -> list[Figure]:
    figures = []
    for training, doing in ((True, "forward and backward"), (False, "inference")):
        workload = Workload(architecture, STEP_BATCH, training=training)
        actions = both(workload.head)
        with workload.without_head_dropout():
            check_equal(f"head {architecture}, {doing}", actions)
        times = interleaved(actions, rounds, 10 if training else 5)
        goal = HEAD_GOALS[architecture] if training else None
        figures.append(Figure(TIME, f"decode head {architecture.upper()}, {doing}", times[OURS], times[STOCK], goal))
    return figures


def loss(rounds: int) -> list[Figure]:
    actions = loss_actions(LOSS_BATCH)
    check_equal("loss", actions)
    times, label = interleaved(actions, rounds, 14), f"loss, batch {LOSS_BATCH}"
    return [
        Figure(TIME, label, times[OURS], times[STOCK], 3.5),
        *memory_figures(label, actions, 0.1),
    ]


def inference(architecture: str, rounds: int) -> list[Figure]:
    workload = Workload(architecture, INFERENCE_BATCH, training=False)
    actions = both(workload.logits)
    check_equal(f"logits {architecture}", actions)
    times = interleaved(actions, rounds, 15)
    label = f"inference to logits {architecture.upper()}, batch {INFERENCE_BATCH}"
    return [Figure(TIME, label, times[OURS], times[STOCK], LOGITS_GOALS[architecture])]


def classes(rounds: int) -> list[Figure]:
    workload = Workload("b0", INFERENCE_BATCH, training=False)
    actions = both(workload.classes)
    check_equal("classes", actions)
    times, label = interleaved(actions, rounds, 15), f"inference to full-size classes B0, batch {INFERENCE_BATCH}"
    return [
        Figure(TIME, label, times[OURS], times[STOCK], 1.7),
        *memory_figures(label, actions, 0.5),
    ]


def strategies(rounds: int) -> list[Figure]:
    workload, network = Workload("b0", STEP_BATCH), "jacobian_norm, of the network"
    for strategy in STRATEGIES:
        workload.add(strategy, strategy)
    times = interleaved({name: workload.step(name) for name in (OURS, *STRATEGIES)}, rounds, 35)
    goals = {name: JACOBIAN_GOAL if name == "jacobian_norm" else STRATEGY_GOAL for name in STRATEGIES}
    figures = [Figure(STRATEGY, name, times[name], times[OURS], goal) for name, goal in goals.items()]
    workload.add(network, "jacobian_norm", {"jacobian": "network"})
    times = interleaved({name: workload.step(name) for name in (OURS, network)}, rounds, 0)
    return [*figures, Figure(STRATEGY, network, times[network], times[OURS]), *whole_networks(rounds)]


def whole_networks(rounds: int) -> list[Figure]:
    """
    Training steps under scope network, which computes an effective weight for every layer of the encoder, too, and
    under scope certified, whose encoder is another one.
    """
    workload, certified = Workload("b0", STEP_BATCH), "orthogonal, scope certified"
    for strategy in STRATEGIES:
        workload.add(strategy, strategy, scope="network")
    workload.add(certified, "orthogonal", scope="certified")
    times = interleaved({name: workload.step(name) for name in (OURS, *STRATEGIES, certified)}, rounds, 35)
    return [
        *(Figure(STRATEGY, f"{name}, scope network", times[name], times[OURS], NETWORK_GOAL) for name in STRATEGIES),
        Figure(STRATEGY, certified, times[certified], times[OURS], CERTIFIED_GOAL),
    ]


def pixels(rounds: int) -> list[Figure]:
    check_step("b0")
    actions: dict[str, Action] = {}
    for side in SIDES:
        workload = Workload("b0", 1, side)
        actions |= {f"head {side}": workload.head(OURS), f"loss {side}": loss_actions(1, side)[OURS]}
        actions |= {f"whole step {side}": workload.step(OURS), f"stock's whole step {side}": workload.step(STOCK)}
    times = interleaved(actions, rounds, 45)
    figures = []
    for small, large in zip(SIDES, SIDES[1:], strict=False):

        def growth(part: str, goal: float | None, small: int = small, large: int = large) -> Figure:
            label = f"{part}, {small} to {large} pixels a side"
            return Figure(PIXELS, label, times[f"{part} {large}"], times[f"{part} {small}"], goal)

        stock = growth("stock's whole step", None)
        figures += [growth("head", PIXEL_GOAL), growth("loss", PIXEL_GOAL), growth("whole step", stock.ratio), stock]
    return figures


CASES: dict[str, Callable[[int], list[Figure]]] = {
    "step-b0": lambda rounds: training_step("b0", rounds),
    "step-b2": lambda rounds: training_step("b2", rounds),
    "memory-b0": lambda rounds: step_memory("b0"),
    "memory-b2": lambda rounds: step_memory("b2"),
    "head-b0": lambda rounds: head("b0", rounds),
    "head-b2": lambda rounds: head("b2", rounds),
    "loss": loss,
    "logits-b0": lambda rounds: inference("b0", rounds),
    "logits-b2": lambda rounds: inference("b2", rounds),
    "classes": classes,
    "strategies": strategies,
    "pixels": pixels,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases to run")
    parser.add_argument(
        "--rounds", type=int, default=15, help=f"at most; slow cases make fewer, but at least {FEWEST_ROUNDS}"
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--output", type=Path, help="Markdown file whose section `speed` is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: list[Figure] = []
    for name in arguments.only:
        start = time.perf_counter()
        figures += CASES[name](arguments.rounds)
        print(f"{name} took {time.perf_counter() - start:.0f} s", flush=True)
    parts = ["## Speed and memory", run_header(["torch", "transformers", "numpy"]), EXPLANATION.strip()]
    if arguments.output is not None:
        image = arguments.output.with_suffix(".png")
        plot_figures(figures, image)
        parts.append(f"![Ratios of ours to stock, and the goals]({image.name})")
    parts += figure_tables(figures)
    parts += gpu_table(arguments.rounds)
    text = "\n\n".join(parts)
    publish(text, arguments.output, "speed")


if __name__ == "__main__":
    main()
