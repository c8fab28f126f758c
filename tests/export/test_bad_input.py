"""Bad input of `lrsegformer export`: one clear line each, and nothing is written or written over."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lrsegformer.export import run as export_run

STOCK = ["--format", "stock", "--output_dir", "out"]


def test_options_that_are_wrong(explain, save):
    folder = save()
    for options, what, remedy in (
        ([*STOCK], "MODEL", "--help"),
        ([folder, "--output_dir", "out"], "--format", "required"),
        ([folder, "--format", "stock"], "--output_dir", "required"),
        ([folder, "--format", "tflite", "--output_dir", "out"], "'tflite'", "onnx"),
        ([folder, *STOCK, "--opset", "3"], "--opset", "--help"),
        ([folder, *STOCK, "--image_size", "64,64"], "--image_size", "leave it out"),
        ([folder, "--format", "pt2", "--output_dir", "out", "--image_size", "64"], "'64'", "rows and columns"),
        ([folder, "--format", "pt2", "--output_dir", "out", "--image_size", "64,-1"], "'64,-1'", "rows and columns"),
        ([folder, "--format", "onnx", "--output_dir", "out", "--image_size", "32,64"], "32,64", "below 64"),
    ):
        line = explain(*options)
        assert what in line and remedy in line, line
        assert not Path("out").exists()


def test_a_model_that_cannot_be_read(explain, save, tmp_path):
    assert "MODEL ./nowhere" in (line := explain("./nowhere", *STOCK)) and "no such folder" in line
    no_model = tmp_path / "empty"
    no_model.mkdir()
    assert str(no_model) in explain(str(no_model), *STOCK)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in Path(save("orthogonal")).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tensors = load_file(copy / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file(
        {**tensors, name: torch.full_like(tensors[name], float("nan"))}, copy / "model.safetensors", {"format": "pt"}
    )
    assert "not finite" in explain(str(copy), *STOCK)
    (copy / "model.safetensors").write_bytes(b"cut short")
    assert "no file of safetensors" in explain(str(copy), *STOCK)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    (copy / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in explain(str(copy), *STOCK)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": ["LRSegformerModel"]}))
    assert "no SegFormer for segmentation or classification" in explain(str(copy), *STOCK)
    assert not Path("out").exists()


def test_a_certified_network_is_no_stock_model(explain, save):
    line = explain(save("orthogonal", "certified"), "--format", "pt2", "stock", "--output_dir", "out")
    assert "other parts than the stock SegFormer" in line and "--format onnx pt2" in line
    assert not Path("out").exists()


def test_nothing_is_written_over(explain, save, tmp_path):
    (tmp_path / "out" / "stock").mkdir(parents=True)
    mine = tmp_path / "out" / "stock" / "mine.txt"
    mine.write_text("mine")
    assert "holds an export already" in explain(save(), *STOCK)
    assert mine.read_text() == "mine" and len(list(mine.parent.iterdir())) == 1
    Path("file").write_text("")
    assert "is a file" in explain(save(), "--format", "stock", "--output_dir", "file/out")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_anything_is_done(explain, save, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(export_run, "open_source", None)
    line = explain(save(), "--format", "stock", "onnx", "--output_dir", "out")
    assert package in line and "lrsegformer[export]" in line
    assert not Path("out").exists()


def test_an_export_that_fails_leaves_nothing(save, tmp_path, monkeypatch):
    def fail(source, folder):
        (folder / "model.safetensors").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(export_run, "write_stock", fail)
    arguments = export_run.ExportArguments(format=["stock"], output_dir=str(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        export_run.export(save(), arguments)
    assert list((tmp_path / "out").iterdir()) == []
