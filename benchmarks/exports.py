"""
Speed of each exported format beside the model it was made of, in eager mode on the CPU.

    pip install -c constraints.txt '.[export]'
    python benchmarks/exports.py --output docs/benchmarks.md

Every format is written and checked as `lrsegformer export` does it; what differs stops the run. Writes the section
`exports`.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from measuring import interleaved
from report import markdown_table, median_and_spread, publish, run_header

from lrsegformer import LRSegformerConfig, LRSegformerForImageClassification, LRSegformerForSemanticSegmentation
from lrsegformer.choices import ARCHITECTURES
from lrsegformer.data.processor import build_processor
from lrsegformer.export.graph import trace
from lrsegformer.export.metadata import metadata_of
from lrsegformer.export.onnx_file import FILE as ONNX_FILE
from lrsegformer.export.onnx_file import runtime_logits, write_onnx
from lrsegformer.export.pt2_file import FILE as PT2_FILE
from lrsegformer.export.pt2_file import write_pt2
from lrsegformer.export.source import Source

CLASSES, SECONDS = 150, 40.0
EAGER, MERGED = "eager", "eager, merged"
# Name of the row: architecture, task, strategy, scope.
CASES: dict[str, tuple[str, str, str | None, str]] = {
    "b0": ("b0", "segmentation", "orthogonal", "head"),
    "b0-network": ("b0", "segmentation", "spectral_norm", "network"),
    "b2": ("b2", "segmentation", "orthogonal", "head"),
    "b0-classification": ("b0", "classification", "orthogonal", "head"),
    "small-certified": ("small", "segmentation", "orthogonal", "certified"),
}
EXPLANATION = """
Logits of one image in float32 on the CPU, batch 1, {side}x{side} pixels, 150 classes, random weights. In every round
each is timed once, in rotating order, after a warm-up; milliseconds are medians, with half the interquartile range
over the rounds, and so are the ratios to eager, each taken within a round. *Eager* is the saved model as it is loaded,
which computes its effective weights in every call; *merged* is `model.merge()`; *stock* is the stock checkpoint in
transformers' own class; *onnx* runs in onnxruntime, *pt2* is the program of `torch.export` as it is loaded.
"""


def make_source(architecture: str, task: str, strategy: str | None, scope: str, side: int) -> Source:
    """A model of random weights with the processor that it would be saved with."""
    torch.manual_seed(0)
    classes = {"segmentation": LRSegformerForSemanticSegmentation, "classification": LRSegformerForImageClassification}
    options = {"lipschitz_strategy": strategy, "lipschitz_scope": scope, "num_labels": CLASSES}
    model = classes[task](LRSegformerConfig(**ARCHITECTURES[architecture], **options)).eval()
    names = tuple(model.config.id2label[index] for index in range(CLASSES))
    return Source(architecture, task, model, model, build_processor(task, side, [0.5] * 3, [0.25] * 3), names)


@torch.no_grad()
def actions_of(source: Source, folder: Path, side: int, threads: int) -> Mapping[str, Callable[[], object]]:
    """Each format, written and checked, as a call."""
    metadata, program = metadata_of(source), trace(source)
    write_pt2(source, program, metadata, folder, None)
    write_onnx(source, program, metadata, folder, None)
    pixel_values = torch.randn(1, 3, side, side)
    runtime, loaded = runtime_logits(folder / ONNX_FILE, threads), torch.export.load(str(folder / PT2_FILE)).module()
    merged = type(source.model)(source.model.config).eval()
    merged.load_state_dict(source.model.state_dict())
    merged.merge()
    models = {EAGER: source.model, MERGED: merged}
    if not source.model.is_certified():
        models["stock"] = source.model.to_vanilla()
    calls: dict[str, Callable[[], object]] = {
        name: lambda model=model: model(pixel_values=pixel_values).logits for name, model in models.items()
    }
    return {**calls, "onnx": lambda: runtime(pixel_values), "pt2": lambda: loaded(pixel_values)}


@torch.no_grad()
def rows_of(name: str, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """One row a format: milliseconds and their spread, and the paired ratio to eager with its spread."""
    architecture, task, strategy, scope = CASES[name]
    source = make_source(architecture, task, strategy, scope, options.side)
    with tempfile.TemporaryDirectory() as folder:
        actions = actions_of(source, Path(folder), options.side, options.threads)
        times = interleaved(actions, options.rounds, SECONDS)
    rows = []
    for kind, seconds in times.items():
        ratios = [own / eager for own, eager in zip(seconds, times[EAGER], strict=True)]
        label = f"{architecture.upper()}, {task}, {strategy}, {scope}"
        rows.append((label, kind, median_and_spread(seconds, 1000), median_and_spread(ratios)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases to run")
    parser.add_argument("--rounds", type=int, default=15, help="at most; slow cases make fewer, but at least 3")
    parser.add_argument("--side", type=int, default=512, help="of the image, in pixels")
    parser.add_argument("--threads", type=int, default=2, help="of torch and of onnxruntime")
    parser.add_argument("--output", type=Path, help="Markdown file whose section `exports` is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for name in arguments.only for row in rows_of(name, arguments)]
    table = markdown_table(("model", "format", "ms", "of eager"), rows, text_columns=2)
    header = run_header(["torch", "transformers", "onnx", "onnxruntime"])
    parts = ["## Exported formats", header, EXPLANATION.format(side=arguments.side).strip(), table]
    publish("\n\n".join(parts), arguments.output, "exports")


if __name__ == "__main__":
    main()
