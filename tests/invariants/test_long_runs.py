"""A long run and a long bench hold no more memory, files, workers or folders at their end than when they began."""

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY, IMAGES = 2000, 200, 200
LARGEST_GROWTH = 1.02
SECONDS = 3600
TRAINING = (
    f"finetune-seg --dataset digits --architecture tiny --strategy stable_softplus --use_cpu --image_size 32 "
    f"--max_train_samples 64 --max_eval_samples 4 --total_batch_size 2 --max_steps {STEPS} --eval_steps {EVERY} "
    f"--save_steps {EVERY} --dataloader_num_workers 1 --learning_rate 1e-3 --report_to none"
).split()
BENCH = f"robustness --dataset digits --image_size 32 --max_eval_samples {IMAGES} --attacks pgd --eps 1 2 4 8".split()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc of Linux"),
]


@dataclass
class Sample:
    """What a command holds at one moment: megabytes of its process and of each worker, workers, open files."""

    place: float
    megabytes: float
    workers: dict[int, float] = field(default_factory=dict)
    files: int = 0


def megabytes(process: int) -> float:
    """Its resident memory."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    return int(rows["Rss"].split()[0]) / 1024


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def watched(options: list[str], folder: Path, place_of) -> list[Sample]:
    """Run a command to its end, with a folder of its own for temporary files; nothing of it may be left."""
    # Not below `folder`, whose path is too long for sockets in it where several processes share the tests.
    temporary = Path(tempfile.mkdtemp())
    environment = {**os.environ, "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    samples, log, ends = [], folder / "log.txt", time.monotonic() + SECONDS
    with log.open("wb") as written:
        command = subprocess.Popen(
            [sys.executable, "-m", "lrsegformer", *options],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while command.poll() is None and time.monotonic() < ends:
            try:
                workers = {child: megabytes(child) for child in children(command.pid)}
                files = len(os.listdir(f"/proc/{command.pid}/fd"))
                samples.append(Sample(place_of(log), megabytes(command.pid), workers, files))
            except (FileNotFoundError, ProcessLookupError, KeyError):
                pass  # it has just ended, or a worker has
            time.sleep(0.5)
        assert command.poll() == 0, log.read_text(errors="replace")[-4000:]
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
            command.wait()
    left = [entry for entry in Path("/proc").glob("[0-9]*") if session_of(entry) == command.pid]
    assert left == [], "processes that outlive their command"
    assert list(temporary.iterdir()) == [], "temporary folders that outlive their command"
    temporary.rmdir()
    return samples


def session_of(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError):
        return None


def step_of(log: Path) -> float:
    """The last step that the bar shows."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        found = re.findall(rf"\b(\d+)/{STEPS}\b", file.read().decode(errors="replace"))
    return float(found[-1]) if found else 0.0


def assert_flat(early: list[Sample], late: list[Sample], what: str) -> None:
    assert len(early) > 3 and len(late) > 3, "too few samples to compare"
    before, after = (statistics.median(sample.megabytes for sample in part) for part in (early, late))
    workers = [statistics.median(max(sample.workers.values(), default=0) for sample in part) for part in (early, late)]
    files = [max(sample.files for sample in part) for part in (early, late)]
    counts = [max(len(sample.workers) for sample in part) for part in (early, late)]
    print(
        f"{what}: {before:.1f} to {after:.1f} MB ({100 * (after / before - 1):+.2f} %), largest worker "
        f"{workers[0]:.1f} to {workers[1]:.1f} MB, workers {counts[0]} to {counts[1]}, files {files[0]} to {files[1]}"
    )
    assert after <= LARGEST_GROWTH * before
    assert workers[1] <= LARGEST_GROWTH * max(workers[0], 1)
    assert counts[1] <= counts[0]
    assert files[1] <= files[0] + 2, "a file that is being written"


def test_training_with_evaluations(tmp_path):
    samples = watched([*TRAINING, "--output_dir", str(tmp_path / "run")], tmp_path, step_of)
    early = [sample for sample in samples if EVERY < sample.place <= 2 * EVERY]
    late = [sample for sample in samples if STEPS - EVERY < sample.place < STEPS]
    assert_flat(early, late, f"{STEPS} steps")
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == [f"checkpoint-{STEPS - EVERY}", f"checkpoint-{STEPS}"]
    assert not (tmp_path / "run" / "unfinished").exists() or not any((tmp_path / "run" / "unfinished").iterdir())


def test_the_robustness_bench(segmentation_run, tmp_path):
    started = time.monotonic()
    options = [*BENCH, "--models", str(segmentation_run[0]), "--output_dir", str(tmp_path / "report")]
    samples = watched(options, tmp_path, lambda log: time.monotonic() - started)
    # The first half ends long after everything is loaded; what is written at the end comes after the last image.
    begun = [sample for sample in samples if sample.megabytes > 0.5 * max(each.megabytes for each in samples)]
    third = len(begun) // 3
    assert_flat(begun[third : 2 * third], begun[2 * third : -3], f"{IMAGES} images of the bench")
