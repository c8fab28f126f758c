"""Fixtures that all tests share."""

import gc
import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SEGMENTATION_RUN = (
    "--dataset digits --architecture tiny --strategy stable_softplus --use_cpu --image_size 64 --max_train_samples 12 "
    "--max_eval_samples 4 --total_batch_size 4 --per_device_train_batch_size 2 --max_steps 4 --save_steps 2 "
    "--eval_steps 2 --logging_steps 1 --save_total_limit 9 --dataloader_num_workers 1 --learning_rate 1e-3"
).split()

# Before torch is loaded: models this small are slower on several threads, and threads that wait spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# With AMX some convolutions are wrong in bfloat16 (lrsegformer/training/run/bfloat16.py), those of tiny models first.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


def pytest_configure(config: pytest.Config) -> None:
    """Load what tests need. The process that hands them out to workers runs none, and starts seconds earlier so."""
    # Cases a property test; `--hypothesis-profile` has the last word.
    settings.register_profile("default", max_examples=30, deadline=None)
    settings.register_profile("thorough", max_examples=1000, deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
    config.pluginmanager.import_plugin("tests.selection")
    if config.getoption("dist", "no") != "no":
        return
    import torch

    torch.set_num_threads(1)
    for name in ("tests.tiny_models", "tests.known_models"):
        config.pluginmanager.import_plugin(name)


def pytest_collection_finish() -> None:
    """What was imported is no garbage: `train()` collects it, which is most of a tiny run's time if it looks there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """
    The folder of real images, by LRSEGFORMER_DATA (default `../shared/data`).

    Tests that need it skip where there is none, and fail where LRSEGFORMER_REQUIRE_DATA is set, as CI does.
    """
    folder = (ROOT / os.environ.get("LRSEGFORMER_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        if os.environ.get("LRSEGFORMER_REQUIRE_DATA"):
            pytest.fail(f"LRSEGFORMER_REQUIRE_DATA is set, and there are no real images at {folder}")
        pytest.skip(f"no real images at {folder}; set LRSEGFORMER_DATA")
    return folder


@pytest.fixture(scope="session")
def largest_allocation() -> Callable[[Callable[[], object]], int]:
    """
    `largest_allocation(action)`: the most bytes that one operator of a call takes from torch's CPU allocator.

    From torch's profiler, which also sees inside custom operators; a dispatch mode sees only their results.
    """

    def measure(action: Callable[[], object]) -> int:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            action()
        return max(event.self_cpu_memory_usage for event in profiler.events())

    return measure


@pytest.fixture
def error_lines():
    """What transformers logs as an error during the test."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    collector = Collector(level=logging.ERROR)
    logger = logging.getLogger("transformers")
    logger.addHandler(collector)
    yield lines
    logger.removeHandler(collector)


@pytest.fixture(scope="session")
def turned_photograph() -> Callable[[Path], None]:
    """
    `turned_photograph(file)`: a JPEG as phones save it. Its tag says that the stored 90 x 70 pixels are to be turned
    to 70 x 90; upright it has a dark top and a bright bottom.
    """

    def save(file: Path) -> None:
        rows = np.linspace(0, 200, 90)[:, None, None] + np.random.default_rng(0).integers(0, 50, (90, 70, 3))
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(rows.astype(np.uint8)).transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)

    return save


@pytest.fixture(scope="session")
def run_script():
    """Run a script of the repository as a user does, without a network; gives the completed process."""

    def run(
        name: str, *options: str, folder: Path = ROOT, timeout_seconds: int = 300, **environment: str
    ) -> subprocess.CompletedProcess:
        clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / name), *options],
            cwd=folder,
            env={**clean, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )

    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)`: a folder that `make` fills, once for all processes that share the tests; read-only."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def fill(name: str, make: Callable[[Path], None]) -> Path:
        folder, complete = shared / name, shared / f"{name}.complete"
        with FileLock(shared / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return fill


@pytest.fixture(scope="module")
def blank_pictures():
    """The pictures of a run are blank: to draw them takes longer than a tiny run, and other tests look at them."""

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    draw = FigureCanvasAgg.print_png

    def write(canvas, file: str | os.PathLike | io.BytesIO, metadata: dict | None = None) -> None:
        if isinstance(file, io.BytesIO):  # matplotlib asks for the renderer that a layout is measured with
            draw(canvas, file, metadata=metadata)
        else:
            Image.new("L", (1, 1)).save(file, format="PNG")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "print_png", write)
        yield


@pytest.fixture(scope="session")
def segmentation_run(run_script, made_once) -> tuple[Path, str]:
    """The folder of a run of scripts/finetune_seg.py (4 steps, checkpoints at 2 and 4), and what it printed."""

    def make(folder: Path) -> None:
        options = [*SEGMENTATION_RUN, "--report_to", "tensorboard", "--output_dir", str(folder / "run")]
        process = run_script("finetune_seg.py", *options)
        assert process.returncode == 0, process.stderr[-4000:]
        (folder / "printed.txt").write_text(process.stdout + process.stderr, encoding="utf-8")

    folder = made_once("segmentation", make)
    return folder / "run", (folder / "printed.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def chromium():
    """A headless browser; tests that need it skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("LRSEGFORMER_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium found; install one, or name it by LRSEGFORMER_BROWSER")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
