"""Two processes of a script, as `torchrun` starts them, from a server that has imported torch and models for both."""

import multiprocessing
import os
import runpy
import socket
import sys
from pathlib import Path

TIMEOUT_SECONDS = 300
IMPORTED = ("lrsegformer.training", "lrsegformer.robustness.bench.bench")


def run_two_ranks(script: Path, *options: str, log: Path, status: int = 0) -> None:
    """
    Run a script with its options in two processes, which both end with this status; what they print goes to the file
    `log`.

    Raises:
        `AssertionError`: with the end of the log, where one of them does not.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    processes = [context.Process(target=_run, args=(rank, port, str(script), options, str(log))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_SECONDS)
    for process in processes:
        process.kill()
    assert [process.exitcode for process in processes] == [status, status], log.read_text(encoding="utf-8")[-4000:]


def _run(rank: int, port: int, script: str, options: tuple[str, ...], log: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(written, stream)
    sys.argv = [script, *options]
    runpy.run_path(script, run_name="__main__")
