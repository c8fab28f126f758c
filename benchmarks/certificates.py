"""
What a certificate costs: beside plain inference, and beside randomised smoothing.

    python benchmarks/certificates.py --output docs/benchmarks.md
    python benchmarks/certificates.py --model runs/certified --side 480 360

Writes the section `certificates`.
"""

import argparse
from pathlib import Path

import torch
from figures import CERTIFICATE, SMOOTHING, Figure, figure_tables
from measuring import interleaved, timed
from report import publish, run_header, significant
from transformers import AutoModelForSemanticSegmentation, SegformerImageProcessorPil

from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.certification.margins import certified_pixels, certified_radii
from lrsegformer.certification.smoothing import Smoothing, smoothed_prediction
from lrsegformer.choices import ARCHITECTURES
from lrsegformer.data.processor import load_processor
from lrsegformer.robustness.certificates.proven import FEATURES, Proof, proof_of

CLASSES, BATCH = 150, 8
NOISE = Smoothing(sigma=0.25, n0=10, n=100)
OVERHEAD_GOAL = 1.10
SPEEDUP_GOAL = 0.9 * (NOISE.n0 + NOISE.n)
PLAIN, CERTIFIED, SMOOTHED = "inference", "certificate", "smoothing"

EXPLANATION = f"""
Milliseconds an image, float32, {BATCH} images (of smoothing, {BATCH} samples) a pass. *Inference* is the forward pass
and the class of every pixel at full size; *certificate* is the forward pass, and class and certified radius of every
pixel at full size; *smoothing* is SegCertify with n0 = {NOISE.n0} and n = {NOISE.n}. What is compared takes turns in
each round. The constants of a model are computed once for a size, and are not part of it.
"""


def load(name: str | None) -> PixelModel:
    """A saved model, or B0 with a constrained head and random weights, whose certificate is one in feature space."""
    if name is not None:
        return PixelModel(AutoModelForSemanticSegmentation.from_pretrained(name), load_processor(name)).eval()
    torch.manual_seed(0)
    config = LRSegformerConfig(**ARCHITECTURES["b0"], num_labels=CLASSES, lipschitz_strategy="orthogonal")
    return PixelModel(LRSegformerForSemanticSegmentation(config), SegformerImageProcessorPil()).eval()


def constant_of(proof: Proof, model: PixelModel, size: tuple[int, int]) -> float:
    """The constant of the first norm that there is, as a report uses it."""
    (norm,) = proof.norms(["l2"])
    with torch.no_grad():
        logits_size = tuple(model(torch.zeros(1, 3, *size)).shape[2:])
    return proof.constants(norm, size, logits_size, size).per_pixel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a segmentation model; by default B0 with random weights")
    parser.add_argument("--side", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--output", type=Path, help="Markdown file whose section `certificates` is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, size = load(arguments.model), tuple(arguments.side)
    proof, note = proof_of(model)
    if proof is None:
        parser.error(f"{arguments.model}: {note}")
    seconds, constant = timed(lambda: constant_of(proof, model, size))
    images = torch.rand(BATCH, 3, *size, generator=torch.Generator().manual_seed(0))

    def certify() -> None:
        with torch.no_grad():
            found = certified_pixels(model(images), proof.inverse, size)
        certified_radii(found.distances, constant)

    def smooth() -> None:
        generator = torch.Generator().manual_seed(0)
        smoothed_prediction(
            lambda noisy: model.predict(noisy, size), images[0], NOISE, generator, model.num_labels, BATCH
        )

    actions = {PLAIN: lambda: model.predict(images, size), CERTIFIED: certify}
    # Two calls that are nearly equal take many rounds; smoothing, a hundred times as long, takes few.
    close = interleaved(actions, 4 * arguments.rounds, 120)
    far = interleaved({CERTIFIED: certify, SMOOTHED: smooth}, arguments.rounds, 300)
    label = f"{arguments.model or 'B0'}, {size[1]}x{size[0]}, {model.num_labels} classes"
    label += ", in feature space" if proof.reach == FEATURES else ""
    an_image = {name: [sample / BATCH for sample in samples] for name, samples in close.items()}
    certified = [sample / BATCH for sample in far[CERTIFIED]]
    figures = [
        Figure(CERTIFICATE, label, an_image[CERTIFIED], an_image[PLAIN], OVERHEAD_GOAL),
        Figure(SMOOTHING, label, certified, far[SMOOTHED], SPEEDUP_GOAL),
    ]
    cost = f"The constants took {significant(1000 * seconds)} ms, once, with the pass that tells the logits' size."
    parts = ["## Certificates", run_header(["torch", "transformers", "numpy"]), EXPLANATION.strip(), cost]
    publish("\n\n".join([*parts, *figure_tables(figures)]), arguments.output, "certificates")


if __name__ == "__main__":
    main()
