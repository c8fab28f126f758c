"""Worker processes that could not hand over a batch are refused in one line, and none is waited for."""

import multiprocessing
import subprocess
import sys
import tempfile

import pytest
import torch

from lrsegformer.data.dataset import refuse_mute_workers
from lrsegformer.errors import InputError

TRAINING = (
    "finetune-seg --dataset digits --architecture tiny --image_size 32 --max_train_samples 4 --max_eval_samples 2"
)
SHORT = "--max_eval_samples 2 --total_batch_size 2 --max_steps 1 --use_cpu --report_to none --dataloader_num_workers"


@pytest.fixture
def far_away(tmp_path, monkeypatch):
    """A folder for temporary files in which no socket's path can be written."""
    folder = tmp_path / ("long" * 25) / "and longer"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="the length of a socket's path is Linux's")
def test_a_path_too_long_for_sockets_is_named(far_away):
    with pytest.raises(InputError, match=r"TMPDIR: in .*and longer no socket .*too long.*--dataloader_num_workers 0"):
        refuse_mute_workers(1)
    refuse_mute_workers(0)


def test_sockets_are_made_where_they_fit():
    refuse_mute_workers(2)


def test_tensors_that_travel_by_files_need_no_socket(far_away, monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "get_sharing_strategy", lambda: "file_system")
    refuse_mute_workers(1)


@pytest.mark.skipif(sys.platform != "linux", reason="the length of a socket's path is Linux's")
def test_a_training_that_would_wait_for_ever_is_refused_and_leaves_nothing(far_away, tmp_path):
    words = [*TRAINING.split(), *SHORT.split(), "1", "--output_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "lrsegformer", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if "TMPDIR" in line]
    assert line.startswith("error: TMPDIR: in ") and "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()
