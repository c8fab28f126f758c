"""
Time, memory and tightness of our Lipschitz layers beside the peers' and beside algorithms that we did not choose.

    pip install -c constraints.txt '.[bench]'
    python benchmarks/layers.py --output docs/benchmarks.md

All figures come from one run on the CPU in float32: in every round each layer is timed once, in an order that rotates
from round to round, so that what else the machine does falls on all of them.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from layer_alternatives import alternative_layers, check_alternatives
from measuring import peak_memory, timed
from peers import ALL_SINGULAR_VALUES, ESTIMATE, LARGEST_SINGULAR_VALUE, NONE, Candidate, all_layers, same_promise
from report import markdown_table, median_and_spread, publish, run_header, significant
from torch import nn

from lrsegformer.layers.norms import operator_norm

DECODER_SHAPES = ["32:256", "64:256", "160:256", "256:256", "1024:256", "256:150"]
B5_SHAPES = ["64:768", "128:768", "320:768", "512:768", "3072:768", "768:150", "768:768"]
TOKENS = 1024
FORWARD, BACKWARD, BOTH = "forward", "backward", "forward and backward"
WEIGHT, LAYER = "weight", "layer step"
FIGURES = {WEIGHT: (FORWARD, BACKWARD, BOTH), LAYER: (LAYER,)}  # what one sample of an action gives

RELATIVE_MOVE = 0.1  # of a square orthonormal matrix's entries: its singular values move by about 0.2 at most
SECONDS_PER_SAMPLE = 0.002  # shorter calls are repeated within a sample
SECONDS_PER_ACTION = 0.8  # of all rounds of one action at one shape, as long as FEWEST_ROUNDS are made
FEWEST_ROUNDS = 3
WARM_UP_AGAIN = 0.1  # seconds; a faster call is made three more times before its cost is believed
SLOW_FORWARD = 1.0  # seconds; beyond it, only one forward pass is measured
SLOW_STEP = 0.5  # seconds of forward and backward; beyond it, the layer step is left out
SLOW_CALL = 1.5  # seconds; beyond it, the first call is the only one

EXPLANATION = f"""
Columns are shapes, in:out; float32, no bias, training mode. Every layer starts as its library starts it; then its raw
matrix is moved by Gaussian noise of {RELATIVE_MOVE}/sqrt(max(in, out)) off the diagonal, because iterative methods
stop at once at the orthonormal start that some libraries choose (torch ignores the diagonal or keeps signs there).
Norms are those of the first forward pass after the move, judged by singular values in float64. Times are medians in
milliseconds, with half the interquartile range over the rounds (without it: one call, of more than {SLOW_CALL:g} s);
`-`: not measured, because forward took more than {SLOW_FORWARD:g} s (or forward and backward more than {SLOW_STEP:g} s
for the layer step, more than {SLOW_CALL:g} s for memory), or would have: maps that need a square matrix of the larger
side, and torch's householder, whose backward pass takes a minute there, are left out at 3072.

What a layer promises: *proven*: of the float32 matrix, rounding included, with a bound that the layer returns; *exact
arithmetic*: of the formula, rounding not covered; *estimate*: of an iteration that is stopped, so the norm may exceed
K; *none*: nothing limits the norm. Torch's householder maps keep theirs only while no weight decay touches the raw
parameter, whose diagonal holds signs that are cut to integers. The estimates of torch, torchlip and orthogonium also
depend on vectors saved by earlier forward passes. No peer promises a norm in linf; none makes sure of the largest
singular value alone, so spectral_norm stands beside those that make sure of all.
"""


@dataclass
class Entry:
    """A candidate at one shape: its layer, what is fed to it, and what was measured of it (times in seconds)."""

    candidate: Candidate
    layer: nn.Module
    raw: list[nn.Parameter]
    claimed_norm: float
    true_norm: float
    memory: int | None = None
    rounds: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=lambda: {FORWARD: [], BACKWARD: [], BOTH: [], LAYER: []})

    def __post_init__(self) -> None:
        outputs, inputs = self.layer.out_features, self.layer.in_features
        self.upstream = torch.randn(outputs, inputs)
        self.tokens, self.tokens_upstream = torch.randn(TOKENS, inputs), torch.randn(TOKENS, outputs)

    def weight_step(self) -> tuple[float, float, float]:
        forward, weight = timed(lambda: self.candidate.weight(self.layer))
        backward, _ = timed(lambda: torch.autograd.grad(weight, self.raw, self.upstream))
        return forward, backward, forward + backward

    def layer_step(self) -> tuple[float]:
        return (timed(lambda: torch.autograd.grad(self.layer(self.tokens), self.raw, self.tokens_upstream))[0],)

    def sample(self, action: str) -> None:
        step = self.weight_step if action == WEIGHT else self.layer_step
        durations = [step() for _ in range(self.calls[action])]
        for name, of_calls in zip(FIGURES[action], zip(*durations, strict=True), strict=True):
            self.samples[name].append(statistics.fmean(of_calls))


Results = dict[str, dict[str, Entry]]


def prepare(candidate: Candidate, inputs: int, outputs: int, rounds: int) -> Entry:
    """Build the layer, move its weight, judge its norm at the first forward pass, and decide how often to time it."""
    torch.manual_seed(0)
    layer = candidate.build(inputs, outputs).train()
    raw = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    for matrix in (parameter.data for parameter in raw if parameter.dim() == 2):
        noise = torch.randn_like(matrix) * (RELATIVE_MOVE / max(inputs, outputs) ** 0.5)
        noise.diagonal().zero_()
        matrix.add_(noise)
    duration, weight = timed(lambda: candidate.weight(layer).detach())
    true_norm = float(operator_norm(weight, candidate.norm))
    entry = Entry(candidate, layer, raw, candidate.bound(layer), true_norm)
    if duration > SLOW_FORWARD:
        entry.samples[FORWARD].append(duration)
    elif warm_up(entry, WEIGHT, rounds) <= SLOW_STEP:
        warm_up(entry, LAYER, rounds)
    return entry


def warm_up(entry: Entry, action: str, rounds: int) -> float:
    """Try `action`, plan how often it is timed, and return the seconds that it takes."""
    total = FIGURES[action][-1]
    entry.calls[action] = 1
    entry.sample(action)
    if entry.samples[total][0] < WARM_UP_AGAIN:
        for _ in range(3):
            entry.sample(action)
    cost = min(entry.samples[total])
    if cost <= SLOW_CALL:
        for name in FIGURES[action]:
            entry.samples[name].clear()
        entry.calls[action] = max(1, min(100, int(SECONDS_PER_SAMPLE / cost)))
        affordable = int(SECONDS_PER_ACTION / (cost * entry.calls[action]))
        entry.rounds[action] = max(FEWEST_ROUNDS, min(rounds, affordable))
    return cost


def measure_shape(candidates: Sequence[Candidate], shape: str, rounds: int) -> dict[str, Entry]:
    """All candidates at one shape, interleaved."""
    inputs, outputs = map(int, shape.split(":"))
    fitting = [candidate for candidate in candidates if max(inputs, outputs) <= candidate.largest_side]
    entries = [prepare(candidate, inputs, outputs, rounds) for candidate in fitting]
    measured = [entry for entry in entries if WEIGHT in entry.rounds]
    for entry, peak in zip(measured, peak_memory([entry.weight_step for entry in measured]), strict=True):
        entry.memory = peak
    for number in range(max(rounds, FEWEST_ROUNDS)):
        first = number % len(entries)
        for entry in entries[first:] + entries[:first]:
            for action, planned in entry.rounds.items():
                if number < planned:
                    entry.sample(action)
    return {entry.candidate.name: entry for entry in entries}


def time_cell(entry: Entry, figure: str) -> str:
    return median_and_spread(entry.samples[figure], 1e3) if entry.samples[figure] else "-"


def norm_cell(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.5f}" if value < 1.1 else significant(value)


def memory_cell(entry: Entry) -> str:
    return "-" if entry.memory is None else significant(entry.memory / 2**20)


def ratio_cell(entries: dict[str, Entry], ours: Candidate, peer: Candidate, figure: str) -> str:
    """The peer's time over ours: the median over rounds that both made."""
    if peer.name not in entries:
        return "-"
    pairs = list(zip(entries[ours.name].samples[figure], entries[peer.name].samples[figure], strict=False))
    return significant(statistics.median(their_time / our_time for our_time, their_time in pairs)) if pairs else "-"


def shape_table(results: Results, candidates: Sequence[Candidate], cell: Callable[[Entry], str]) -> str:
    """One row a candidate, one column a shape."""
    rows = []
    for candidate in candidates:
        cells = [cell(e[candidate.name]) if candidate.name in e else "-" for e in results.values()]
        rows.append([candidate.name, candidate.promise, *cells])
    return markdown_table(["layer", "promise", *results], rows, text_columns=2)


def ratio_table(results: Results, candidates: Sequence[Candidate], figure: str) -> str:
    """The times of peers of the same promise, divided by ours."""
    rows = [
        [ours.name, peer.name, *(ratio_cell(entries, ours, peer, figure) for entries in results.values())]
        for ours in candidates
        if ours.source == "ours" and ours.guarantee != NONE
        for peer in same_promise(ours, candidates)
    ]
    return markdown_table(["ours", "peer of the same promise", *results], rows, text_columns=2)


def section(results: Results, layers: list[Candidate], alternatives: list[Candidate]) -> str:
    """The whole text, tables included."""
    layers = sorted(layers, key=lambda layer: (layer.constraint, layer.guarantee == ESTIMATE, layer.source != "ours"))
    of_singular_values = (ALL_SINGULAR_VALUES, LARGEST_SINGULAR_VALUE)
    chosen = [layer for layer in layers if layer.source == "ours" and layer.constraint in of_singular_values]
    measures: list[tuple[str, Callable[[Entry], str]]] = [
        ("Bound or claim / true norm; below 1: broken", lambda entry: norm_cell(entry.claimed_norm / entry.true_norm)),
        ("Effective weight, forward, ms", lambda entry: time_cell(entry, FORWARD)),
        ("Effective weight, forward and backward, ms", lambda entry: time_cell(entry, BOTH)),
        (f"Layer, forward and backward of the weight on {TOKENS} tokens, ms", lambda entry: time_cell(entry, LAYER)),
        ("Peak memory of forward and backward of the effective weight, MiB", memory_cell),
    ]
    parts = ["## Layers", run_header(["torch", "numpy", "deel-torchlip", "orthogonium"]), EXPLANATION.strip()]
    for figure in FIGURES[WEIGHT]:
        parts += [f"### Peer's time / ours, {figure}; above 1: ours is faster", ratio_table(results, layers, figure)]
    for title, cell in measures:
        parts += [f"### {title}", shape_table(results, layers, cell)]
    of_one = [layer for layer in layers if layer in chosen or (layer.source != "ours" and layer.guarantee != NONE)]
    parts += ["### True l2 norm where K = 1", shape_table(results, of_one, lambda entry: norm_cell(entry.true_norm))]
    for title, cell in measures:
        parts += [f"### Not chosen: {title[0].lower()}{title[1:]}", shape_table(results, chosen + alternatives, cell)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=DECODER_SHAPES + B5_SHAPES, help="as in:out")
    parser.add_argument("--rounds", type=int, default=15, help="at most; slow layers make fewer")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--output", type=Path, help="Markdown file whose section `layers` is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    check_alternatives()
    layers, alternatives = all_layers(), list(alternative_layers())
    results: Results = {}
    for shape in arguments.shapes:
        start = time.perf_counter()
        results[shape] = measure_shape(layers + alternatives, shape, arguments.rounds)
        print(f"{shape} took {time.perf_counter() - start:.0f} s", flush=True)
    text = section(results, layers, alternatives)
    publish(text, arguments.output, "layers")


if __name__ == "__main__":
    main()
