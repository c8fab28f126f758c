"""Worker processes of data loaders: with seeds of their own, and deaf to what is said to the whole group."""

import os
import signal
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader


def settle_workers(dataloader: DataLoader) -> DataLoader:
    """
    Take the seeds of worker processes from a generator of their own, and leave signals to the process they work for.

    By default seeds are drawn from torch's generator whenever workers start: once more in a resumed run, so its
    dropout differs. And Ctrl-C, as a scheduler's SIGTERM, goes to the whole group of processes: a run whose workers
    end by it cannot finish its step.
    """
    loader = getattr(dataloader, "base_dataloader", dataloader)
    loader.generator = torch.Generator()
    if loader.num_workers > 0 and getattr(loader.worker_init_fn, "func", None) is not _start:
        loader.worker_init_fn = partial(_start, loader.worker_init_fn)
    return dataloader


def end_workers(dataloader: Any) -> None:
    """
    End the worker processes that a loader keeps from one pass to the next; another pass starts new ones.

    Torch 2.13 leaves it to the collection of the loader. A Trainer is part of cycles of references, of which Python
    finalizes the queues first: workers hear nothing more, and each costs a wait of five seconds, wherever the program
    is by then (we found no upstream issue).
    """
    loader = getattr(dataloader, "base_dataloader", dataloader)
    if isinstance(loader, DataLoader) and loader._iterator is not None:
        loader._iterator._shutdown_workers()
        loader._iterator = None


def _start(init: Callable[[int], Any] | None, worker: int) -> None:
    if init is not None:
        init(worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Not of macOS, where a worker ends by the SIGTERM of anybody.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_by_parent, args=(os.getppid(),), daemon=True).start()


def _end_by_parent(parent: int) -> None:
    """End at a SIGTERM that the process sends for which the worker works, as that does when it exits."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
