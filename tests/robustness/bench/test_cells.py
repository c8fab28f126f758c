"""What the bench is made of: conditions, keys, the file of cells, subsets, batches, and attacks by their names."""

import dataclasses
import json
import resource

import pytest
import torch
from transformers import SegformerImageProcessorPil

from lrsegformer.attacks.pixel_model import PixelModel
from lrsegformer.attacks.threat import Threat
from lrsegformer.errors import InputError
from lrsegformer.robustness.bench.arguments import RobustnessArguments, attack_conditions
from lrsegformer.robustness.bench.cells import CellFile, cell_key
from lrsegformer.robustness.bench.measuring import attack_batch
from lrsegformer.robustness.bench.runs import in_memory
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.subset import Batch, choose_indices

SEED = 7


def test_conditions_have_the_numbers_that_they_run_with():
    arguments = RobustnessArguments(models=["m"], attacks=["pgd", "sea"], eps=[1, 2], restarts=3)
    assert attack_conditions(arguments)[0] == Condition("attack", "pgd", "linf", 1, steps=20, restarts=3)
    assert [(one.steps, one.restarts) for one in attack_conditions(arguments)] == [(20, 3)] * 2 + [(300, 1)] * 2
    arguments = RobustnessArguments(models=["m"], attacks=["fmn", "square", "pgd"], norm="l2", eps=[1, 2], steps=5)
    assert [(one.name, one.radius, one.steps) for one in attack_conditions(arguments)] == [
        ("fmn", None, 200),
        ("square", 1, 5000),
        ("square", 2, 5000),
        ("pgd", 1, 5),
        ("pgd", 2, 5),
    ]


def test_key_of_a_cell_hangs_on_everything():
    condition = Condition("attack", "pgd", "linf", 1.0, steps=20, restarts=1)
    key = cell_key("w", "d", condition, {"seed": 1})
    others = [
        cell_key("v", "d", condition, {"seed": 1}),
        cell_key("w", "e", condition, {"seed": 1}),
        cell_key("w", "d", condition, {"seed": 2}),
        *(
            cell_key("w", "d", dataclasses.replace(condition, **{name: value}), {"seed": 1})
            for name, value in {"radius": 2.0, "norm": "l2", "steps": 21, "restarts": 2, "targeted": True}.items()
        ),
    ]
    assert key == cell_key("w", "d", condition, {"seed": 1}) and len({key, *others}) == 9


def make_cell(key="a", **changes):
    """A cell as the bench keeps it; a field that is changed to `None` is left out."""
    cell = {
        "key": key,
        "model": "m",
        "weights": "w",
        "condition": {"kind": "clean", "name": ""},
        "num_labels": 2,
        "class_names": ["one", "two"],
        "images": 1,
        "of": 1,
        "subset": "s",
        "seed": SEED,
        "seconds": 0.1,
        "device": "cpu",
        "processes": 1,
        "versions": {},
        "counts": [[1, 0], [0, 1]],
        "warnings": [],
        **changes,
    }
    return {name: value for name, value in cell.items() if value is not None}


GRADIENTS = {"counts": None, "warnings": None, "measured": {"small_gradient_share": 0.5}}


def test_file_of_cells_keeps_the_later_of_two(tmp_path):
    file = CellFile(tmp_path / "new" / "folder")
    assert file.read() == {}
    cells = [make_cell(seed=1), make_cell("b", **GRADIENTS), make_cell(seed=2)]
    for cell in cells:
        file.append(cell)
    assert file.read() == {"a": cells[2], "b": cells[1]} == CellFile(tmp_path / "new" / "folder").read()


NO_CELLS = {
    "words": b"no cell",
    "nothing": b"",
    "no UTF-8": b"\xff\xfe",
    "a number": b"3",
    "endless lists": b"[" * 100_000,
    "a key alone": b'{"key": "abc"}',
    "no results": json.dumps(make_cell(counts=None)).encode(),
    "counts without warnings": json.dumps(make_cell(warnings=None)).encode(),
    "a key of another kind": json.dumps(make_cell(key=["a"])).encode(),
    "a condition of another kind": json.dumps(make_cell(condition="clean")).encode(),
    **{f"no {name}": json.dumps(make_cell(**{name: None})).encode() for name in make_cell() if name != "counts"},
}


@pytest.mark.parametrize("line", NO_CELLS.values(), ids=NO_CELLS)
def test_file_of_cells_refuses_what_is_no_cell(tmp_path, line):
    file = CellFile(tmp_path)
    whole = json.dumps(make_cell()).encode()
    content = whole + b"\n" + line + b"\n" + whole + b"\n"
    file.path.write_bytes(content)
    with pytest.raises(InputError, match="cells.jsonl, line 2: .*--output_dir"):
        file.read()
    assert file.path.read_bytes() == content


def test_folder_that_takes_no_cells_is_refused_before_any_is_computed(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "cells.jsonl").mkdir(parents=True)
    for folder in (tmp_path / "file" / "below", tmp_path / "taken", "/proc", "/proc/below"):
        with pytest.raises(InputError, match="cannot be .*: .*; give another") as error:
            CellFile(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_file_of_cells_that_is_gone_or_locked_is_explained(tmp_path):
    file = CellFile(tmp_path)
    file.path.unlink()
    with pytest.raises(InputError, match="cells.jsonl cannot be read: No such file"):
        file.read()
    file.path.mkdir()
    with pytest.raises(InputError, match="cells.jsonl cannot be written: Is a directory"):
        file.append(make_cell())


def test_full_disk_is_explained_and_finished_cells_are_kept(tmp_path):
    file = CellFile(tmp_path)
    file.append(make_cell("a"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file that may not grow fails in the same place as a disk without room, a few bytes into the line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(InputError, match="cells.jsonl cannot be written: .*kept.*--output_dir"):
            file.append(make_cell("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(file.read()) == {"a"}
    file.append(make_cell("c"))
    assert set(file.read()) == {"a", "c"}


def test_subset_is_seeded_and_sorted():
    chosen = choose_indices(2000, 200, 1)
    assert len(set(chosen)) == 200 and list(chosen) == sorted(chosen)
    assert list(chosen) == list(choose_indices(2000, 200, 1)) != list(choose_indices(2000, 200, 2))
    assert list(choose_indices(3, 200, 1)) == [0, 1, 2]
    # A larger subset holds the smaller one.
    assert set(chosen) < set(choose_indices(2000, 300, 1))


def test_batch_is_halved_where_memory_runs_out():
    sizes = []

    def attack(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [(position, float(batch.images[row].sum())) for row, position in enumerate(batch.positions)]

    batch = Batch([3, 5, 7, 9, 11], [0] * 5, torch.arange(5.0).view(5, 1, 1, 1), torch.zeros(5))
    assert in_memory(batch, attack) == [(3, 0.0), (5, 1.0), (7, 2.0), (9, 3.0), (11, 4.0)]
    assert sizes == [5, 2, 3, 1, 2]
    with pytest.raises(RuntimeError, match="shape"):
        in_memory(batch, lambda batch: (_ for _ in ()).throw(RuntimeError("shape")))


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "square", "fmn"])
def test_attacks_of_classifiers_run_by_name(make_model, name):
    model = PixelModel(make_model(task="classification", num_labels=10), SegformerImageProcessorPil()).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = model.predict(images)
    radius = None if name == "fmn" else 4.0
    condition = Condition("attack", name, "l2", radius, steps=None if name == "fgsm" else 40, restarts=1)
    attacked = attack_batch(model, Batch([0, 1, 2, 3], [5, 6, 7, 8], images, labels), condition, SEED)
    distances = Threat("l2", 4.0).distance(attacked.images, images)
    assert attacked.images.min() >= 0 and attacked.images.max() <= 1
    if name == "fmn":
        assert torch.equal(attacked.distances, distances) and (model.predict(attacked.images) != labels).all()
    else:
        assert (distances <= 4 + 1e-6).all() and (distances > 0).any()
