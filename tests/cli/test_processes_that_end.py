"""A process of several that ends in any way ends all of them, soon and with a message."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of gloo, which an end of another process is not to wait for, is 30 minutes.
LIMIT_SECONDS = 150
WAYS = {
    "exit": "os._exit(3)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "exception": "raise ValueError('broken on one process')",
    "input": "raise InputError('image7.png is broken: replace it')",
}
PROGRAM = """
import os, signal, sys
from transformers import TrainerCallback
from lrsegformer.cli.finetune import main
from lrsegformer.errors import InputError
from lrsegformer.training.trainer import LRSegformerTrainer

class End(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1 and os.environ["RANK"] == "1":
            {way}

start = LRSegformerTrainer.__init__
def with_end(self, *args, **kwargs):
    start(self, *args, **kwargs)
    self.add_callback(End())
LRSegformerTrainer.__init__ = with_end
main("segmentation")
"""
OPTIONS = (
    "--dataset digits --architecture tiny --use_cpu --image_size 32 --max_train_samples 8 --max_eval_samples 2 "
    "--per_device_train_batch_size 2 --total_batch_size 4 --max_steps 50 --dataloader_num_workers 0 --report_to none"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_all_end_with_one(tmp_path, way):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(way=WAYS[way]), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    started = time.monotonic()
    ended = subprocess.run(
        [*launcher, str(program), *OPTIONS, "--output_dir", str(tmp_path / "run")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert ended.returncode != 0 and time.monotonic() - started < LIMIT_SECONDS
    said = {"exit": "exitcode  : 3", "killed": "SIGKILL", "exception": "broken on one process"}
    line = said.get(way, "error: image7.png is broken: replace it")
    assert line in ended.stderr, ended.stderr[-3000:]
    assert not (tmp_path / "run" / "model.safetensors").exists(), "no model of a run that did not end"
