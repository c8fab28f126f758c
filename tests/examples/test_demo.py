"""examples/demo.py in headless Chromium: what the page says is what the models say, and nothing leaves the machine."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import SegformerImageProcessorPil

from lrsegformer.inference import Predictor

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
# Where `make test-all` puts gradio, which cannot lie beside the Pillow of constraints.txt.
PACKAGES = Path(sys.prefix) / "demo"
START_SECONDS, ANSWER_MILLISECONDS = 240, 120_000


@pytest.fixture(scope="module")
def models(make_model, tmp_path_factory):
    """A certified model, one that is not, and a classifier."""
    root = tmp_path_factory.mktemp("models")
    made = {
        "certified": make_model("orthogonal", scope="certified"),
        "head": make_model("stable_softplus"),
        "classifier": make_model("orthogonal", task="classification"),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(root / name)
    return {name: str(root / name) for name in made}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "blocks.png"
    blocks = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(path)
    return path


def environment():
    found = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    if find_spec("gradio") is None:
        if not PACKAGES.is_dir():
            pytest.skip(
                f"no gradio, neither installed nor in {PACKAGES} (`make {PACKAGES.parent.name}/installed-demo`)"
            )
        earlier = [found["PYTHONPATH"]] if found.get("PYTHONPATH") else []
        found["PYTHONPATH"] = os.pathsep.join([*earlier, str(PACKAGES)])
    return found


@pytest.fixture(scope="module")
def address(models):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(DEMO), *models.values(), "--port", str(port)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(START_SECONDS):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.stdout.read()
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def page(chromium, address):
    asked, failed = [], []
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(ANSWER_MILLISECONDS)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address)
    yield page
    page.close()
    assert asked and not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not failed


def said_of(page, pattern):
    """The sentence beside the pictures, once it is of that pattern."""
    page.wait_for_function(
        "pattern => new RegExp(pattern).test(document.querySelector('#said').innerText)", arg=pattern
    )
    return re.search(pattern, page.inner_text("#said"))


def choose(page, name):
    page.click("#model input")
    page.click(f"[role=option]:has-text('{name}')")


def test_the_page_says_what_the_models_say(page, models, image):
    page.set_input_files("input[type=file]", image)
    page.wait_for_selector("img[alt], .image-frame img")
    page.click("#go")
    found = said_of(page, r"l2, radius 36/255\) changes ([\d.]+)% of the pixels.*the ([\d.]+)% that are certified")
    prediction = Predictor.from_pretrained(models["certified"], certified_radius=True)(image)
    certified = float((prediction.certified_radius >= 36 / 255).mean())
    assert found[2] == f"{100 * certified:.1f}"
    assert float(found[1]) <= 100 - float(found[2]) + 0.1, "what is certified no attack changes"
    for place in ("clean", "attacked", "radii", "bounds"):
        page.wait_for_selector(f"#{place} img")
    assert "Certified from the pixels" in page.inner_text("#note")

    choose(page, models["head"])
    assert float(said_of(page, r"changes ([\d.]+)% of the pixels\.$")[1]) > 0
    assert "No certified radius. Certified in feature space" in page.inner_text("#note")
    assert page.query_selector("#radii img") is None

    # No radius, no change.
    page.fill("input[type=number]", "0")
    page.click("#go")
    assert said_of(page, r"radius 0/255\) changes ([\d.]+)%")[1] == "0.0"

    choose(page, models["classifier"])
    names = Predictor.from_pretrained(models["classifier"])
    assert said_of(page, r"(\w+); under attack (\w+)").groups() == (names(image).name,) * 2


def test_without_an_image_the_page_asks_for_one(page):
    page.click("#go")
    page.wait_for_selector("text=Give an image first.")


def test_a_model_that_is_not_there_ends_in_one_line():
    process = subprocess.run(
        [sys.executable, str(DEMO), "nowhere/at/all"], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == "error: MODEL nowhere/at/all: no such folder; check the path"
    assert "Traceback" not in process.stderr
