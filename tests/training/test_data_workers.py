"""Worker processes of data loaders end with what they work for."""

import gc
import multiprocessing
from multiprocessing.process import BaseProcess

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import _utils as torch_workers

from lrsegformer.training.data_workers import end_workers


@pytest.fixture
def started():
    """`started()`: the worker processes that were not there before the test."""
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


def loader_in_use(batches: int = 4) -> tuple[DataLoader, list[multiprocessing.Process]]:
    loader = DataLoader(TensorDataset(torch.arange(batches)), num_workers=2, persistent_workers=True)
    assert len(list(loader)) == batches
    return loader, list(loader._iterator._workers)


def test_workers_end_by_themselves_and_another_pass_has_new_ones(started):
    loader, workers = loader_in_use()
    assert started() == set(workers)
    end_workers(loader)
    assert [worker.exitcode for worker in workers] == [0, 0] and not started()
    assert len(list(loader)) == 4 and len(started()) == 2
    end_workers(loader)
    end_workers(loader)
    end_workers([1, 2])
    assert not started()


def test_upstream_workers_of_a_cycle_do_not_hear_of_their_end(monkeypatch):
    killed, terminate = [], BaseProcess.terminate
    monkeypatch.setattr(torch_workers, "MP_STATUS_CHECK_INTERVAL", 0.5)
    monkeypatch.setattr(BaseProcess, "terminate", lambda process: (killed.append(process), terminate(process)))
    loader, workers = loader_in_use()
    loader.itself = loader
    del loader
    gc.collect()
    assert killed == workers


@pytest.mark.parametrize("ended_by", ["the-last-step", "a-mistake"])
def test_no_worker_outlives_training(make_trainer, started, monkeypatch, ended_by):
    options = {"dataloader_num_workers": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    trainer = make_trainer(**options)
    seen = []
    log = trainer.log

    def look(*arguments, **named):
        seen.append(len(started()))
        if ended_by == "a-mistake" and trainer.state.global_step == 2:
            raise RuntimeError("a mistake")
        return log(*arguments, **named)

    monkeypatch.setattr(trainer, "log", look)
    if ended_by == "a-mistake":
        with pytest.raises(RuntimeError, match="a mistake"):
            trainer.train()
    else:
        trainer.train()
    assert max(seen) == 2, "one of training and one of evaluation are kept while it lasts"
    assert not started()


def test_no_worker_outlives_an_evaluation_or_a_prediction(make_trainer, digits, started):
    trainer = make_trainer(dataloader_num_workers=1)
    first = trainer.evaluate()["eval_loss"]
    assert not started()
    trainer.predict(digits("segmentation").validation)
    assert not started()
    assert trainer.evaluate()["eval_loss"] == first
