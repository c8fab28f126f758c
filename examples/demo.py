"""
A page in the browser: an image, what models make of it, what they make of it under attack, and what is proven of that.

    pip install ".[demo]"    # in an environment of its own: gradio takes Pillow below 13, and constraints.txt holds 13
    python examples/demo.py runs/quickstart runs/quickstart-certified

It serves this machine alone, tells nobody, and needs no network.
"""

import argparse
import io
import os
import sys
from functools import cache
from typing import NamedTuple

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:
    import gradio as gr
except ModuleNotFoundError:
    print('error: this needs the package gradio: pip install ".[demo]"', file=sys.stderr)
    raise SystemExit(2) from None
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Patch
from PIL import Image

from lrsegformer.attacks.pgd import pgd
from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat
from lrsegformer.certification.text import round_up
from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.data.transforms import input_pixels
from lrsegformer.errors import InputError
from lrsegformer.evaluation.figures import new_figure
from lrsegformer.evaluation.prediction import largest_class, predict_classes
from lrsegformer.inference import Predictor
from lrsegformer.inference.pictures import overlay_with_legend, radius_picture
from lrsegformer.inference.prediction import MapPrediction
from lrsegformer.robustness.certificates.proven import NETWORK, proof_of

TITLE = "LRSegformer: clean, attacked, certified"
STEPS = 20
# The largest radius of the slider and where it starts, in 1/255.
RADII = {"l2": (180, 36), "linf": (16, 2)}
# Small pictures are shown in pixels that can be seen.
SHOWN_SIDE = 384
MOST_BARS = 40
PROVEN, ESTIMATED = "#1f77b4", "#c7c7c7"


class Loaded(NamedTuple):
    """A model, the same as attacks take it, whether its predictions are certified in pixels, and what of."""

    predictor: Predictor
    pixel_model: PixelModel
    is_certified: bool
    note: str


@cache
def load(name: str) -> Loaded:
    predictor = Predictor.from_pretrained(name)
    pixel_model = PixelModel(predictor.model, predictor.processor)
    proof, note = proof_of(pixel_model)
    is_certified = proof is not None and proof.reach == NETWORK
    if is_certified:
        predictor = Predictor(predictor.model, predictor.processor, certified_radius=True)
    return Loaded(predictor, pixel_model, is_certified, note)


def show(name: str, image: Image.Image | None, norm: str, radius: float) -> tuple:
    """Clean and attacked pictures, a sentence, the map of radii or the reason that there is none, and the bounds."""
    if image is None:
        raise gr.Error("Give an image first.", print_exception=False)
    try:
        loaded = load(name)
        clean = loaded.predictor(image)
        pixels, changed = attacked(loaded, image, norm, radius)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error
    picture = shown(pixels).resize(image.size, Image.Resampling.NEAREST)
    bounds, note = draw_bounds(loaded), f"No certified radius. {loaded.note}"
    if loaded.predictor.task == "classification":
        names = loaded.predictor.class_names
        said = f"**{clean.name}**; under attack **{names[int(changed)]}**"
        if loaded.is_certified:
            note = f"Certified radius: {255 * clean.certified_radius:.2f}/255 in l2. {loaded.note}"
        return enlarged(image), enlarged(picture), said, None, note, bounds
    other = MapPrediction(picture, clean.class_names, changed[0].cpu().numpy())
    share = float((other.classes != clean.classes).mean())
    said = f"The attack ({STEPS} steps of PGD, {norm}, radius {radius:g}/255) changes **{share:.1%}** of the pixels."
    radii = None
    if loaded.is_certified:
        radii, note = radius_picture(enlarge_map(clean.certified_radius)), loaded.note
        if norm == "l2":
            certified = clean.certified_radius >= radius / 255
            said += f" No attack in this ball changes the **{float(certified.mean()):.1%}** that are certified."
    return *(overlay_with_legend(enlarged_prediction(one)) for one in (clean, other)), said, radii, note, bounds


def attacked(loaded: Loaded, image: Image.Image, norm: str, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The input that PGD makes of an image, away from what the model says of the clean one, in [0, 1]; and its classes,
    at the size of the image.
    """
    model = loaded.pixel_model
    inputs = input_pixels(loaded.predictor.processor, loaded.predictor.open(image))[None].to(model.mean.device)
    pixels = (inputs * model.std + model.mean).clamp(0, 1)
    if radius > 0:
        threat = Threat.parse(norm, radius if norm == "linf" else radius / 255)
        pixels = pgd(model, pixels, model.predict(pixels).long(), threat, STEPS).images
    logits = model(pixels)
    segments = loaded.predictor.task == "segmentation"
    return pixels, predict_classes(logits, image.size[::-1]) if segments else largest_class(logits)


def draw_bounds(loaded: Loaded) -> Image.Image | None:
    """Bars of what is proven of each layer, of the head and of the network; what is not guaranteed is grey."""
    if not hasattr(loaded.predictor.model, "lipschitz_report"):
        return None
    report = loaded.predictor.model.lipschitz_report()
    parts = [(f"{layer['name']} ({layer['norm']})", layer) for layer in report["layers"]]
    # The head's norm is named before it is explained; the network's is l2 of the image.
    parts.append((f"head ({(report['head']['norm'] or '').partition(':')[0]})", report["head"]))
    parts.append(("pixels to logits (l2)", report.get("network")))
    entries = [(name, part["bound"], part["guaranteed"]) for name, part in parts if part and part["bound"] is not None]
    entries = entries[-MOST_BARS:]
    if not entries:
        return None
    figure = new_figure(7.0, 1.2 + 0.24 * len(entries))
    axes = figure.add_subplot()
    names, values, guaranteed = zip(*entries, strict=True)
    bars = axes.barh(range(len(names)), values, color=[PROVEN if one else ESTIMATED for one in guaranteed])
    axes.bar_label(bars, [round_up(value) for value in values], padding=3, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(title="Lipschitz bounds", xscale="log", ylim=(len(names) - 0.4, -0.6))
    axes.margins(x=0.15)
    kinds = {PROVEN: "proven", ESTIMATED: "not guaranteed"}
    present = [PROVEN] * any(guaranteed) + [ESTIMATED] * (not all(guaranteed))
    handles = [Patch(color=colour, label=kinds[colour]) for colour in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return Image.open(picture).convert("RGB")


def shown(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray((pixels[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, SHOWN_SIDE // min(image.size))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def enlarge_map(values):
    factor = max(1, SHOWN_SIDE // min(values.shape))
    return values.repeat(factor, 0).repeat(factor, 1)


def enlarged_prediction(prediction: MapPrediction) -> MapPrediction:
    return MapPrediction(enlarged(prediction.image), prediction.class_names, enlarge_map(prediction.classes))


def build(names: list[str]) -> gr.Blocks:
    """The page."""
    picture = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Row():
            with gr.Column(scale=1):
                image = gr.Image(type="pil", label="image", sources=["upload", "clipboard"])
                model = gr.Dropdown(names, value=names[0], label="model", elem_id="model")
                norm = gr.Radio(list(RADII), value="l2", label="norm of the attack", elem_id="norm")
                slider = gr.Slider(0, RADII["l2"][0], RADII["l2"][1], step=0.5, label="radius, in 1/255")
                button = gr.Button("Predict and attack", variant="primary", elem_id="go")
            with gr.Column(scale=3):
                with gr.Row():
                    clean = gr.Image(label="prediction", elem_id="clean", **picture)
                    other = gr.Image(label="under attack", elem_id="attacked", **picture)
                said = gr.Markdown(elem_id="said")
        with gr.Row():
            with gr.Column():
                radii = gr.Image(label="certified radius", elem_id="radii", **picture)
                note = gr.Markdown(elem_id="note")
            bounds = gr.Image(show_label=False, elem_id="bounds", **{**picture, "buttons": []})
        inputs, outputs = [model, image, norm, slider], [clean, other, said, radii, note, bounds]
        norm.change(lambda chosen: gr.Slider(maximum=RADII[chosen][0], value=RADII[chosen][1]), norm, slider)
        button.click(show, inputs, outputs)
        # A new model or radius is shown at once where there is an image to show it on.
        for change in (model.change, slider.release):
            change(lambda *given: show(*given) if given[1] is not None else (None,) * 6, inputs, outputs)
    return page


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("models", nargs="+", help="Folders of runs, or ids on the Hub.")
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args(arguments)
    remedies = Remedies(out_of_memory="give fewer or smaller models.", stopped="nothing was written.")
    run_or_explain(lambda: [load(name) for name in given.models], remedies)
    # The theme's own fonts come from another server.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    build(given.models).launch(
        server_name="127.0.0.1", server_port=given.port, share=False, theme=theme, footer_links=["settings"]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
