"""Fixtures that all tests share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before torch is loaded: models this small are slower on several threads, and threads that wait spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SEGMENTATION_RUN = (
    "--dataset digits --architecture tiny --strategy stable_softplus --use_cpu --image_size 64 --max_train_samples 12 "
    "--max_eval_samples 4 --total_batch_size 4 --per_device_train_batch_size 2 --max_steps 4 --save_steps 2 "
    "--eval_steps 2 --logging_steps 1 --save_total_limit 9 --dataloader_num_workers 1 --learning_rate 1e-3"
).split()


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
def run_script():
    """Run a script of the repository as a user does, without a network; gives the completed process."""

    def run(name: str, *options: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
        clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / name), *options],
            cwd=folder,
            env={**clean, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def segmentation_run(run_script, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder of a run of scripts/finetune_seg.py (4 steps, checkpoints at 2 and 4), and its process."""
    folder = tmp_path_factory.mktemp("segmentation") / "run"
    process = run_script(
        "finetune_seg.py", *SEGMENTATION_RUN, "--report_to", "tensorboard", "--output_dir", str(folder)
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return folder, process
