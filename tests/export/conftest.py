"""Saved models with their processors, as a run leaves them, and the command line over them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lrsegformer.cli.export import main
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.data.processor import build_processor
from lrsegformer.export.source import Source

NAMES = ("road, wet", "sky", "car", "Übergang", "tree")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="session")
def classes() -> dict[str, dict]:
    """The classes as a configuration has them."""
    return {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}


def with_processor(model, task: str, folder: Path) -> str:
    model.save_pretrained(folder)
    processor = build_processor(task, 64, MEAN, STD)
    ImageReading().keep_in(processor)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def save(make_model, classes, tmp_path_factory) -> Callable[..., str]:
    """`save(strategy, scope, task, **config)`: the folder of a model of ours."""
    saved: dict = {}

    def make(strategy=None, scope="head", task="segmentation", **config) -> str:
        key = (strategy, scope, task, str(config))
        if key not in saved:
            model = make_model(strategy, scope, task, **classes, **config)
            saved[key] = with_processor(model, task, tmp_path_factory.mktemp("model") / "a-run")
        return saved[key]

    return make


@pytest.fixture(scope="session")
def save_stock(make_stock, classes, tmp_path_factory) -> Callable[..., str]:
    """`save_stock(task, **config)`: the folder of a stock SegFormer."""

    def make(task="segmentation", **config) -> str:
        return with_processor(make_stock(task, **classes, **config), task, tmp_path_factory.mktemp("stock") / "stock")

    return make


@pytest.fixture(scope="session")
def make_source(make_model, classes) -> Callable[..., Source]:
    """`make_source(strategy, scope, task, **config)`: a model that was not saved."""

    def make(strategy=None, scope="head", task="segmentation", **config) -> Source:
        model = make_model(strategy, scope, task, **classes, **config)
        return Source("a-run", task, model, model, build_processor(task, 64, MEAN, STD), NAMES)

    return make


@pytest.fixture
def explain(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Run a command line that has to fail with one clear line; gives that line."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(options))
        assert stop.value.code == 2
        errors = capsys.readouterr().err
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in errors, errors
        return lines[0]

    return run
