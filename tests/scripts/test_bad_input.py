"""Every mistake of a user gets one line with the file or option and the remedy, and nothing is written over."""

import json

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import GatedRepoError
from PIL import Image

from lrsegformer.cli.finetune import main

pytestmark = pytest.mark.usefixtures("blank_pictures")

DIGITS = ["--dataset", "digits", "--max_train_samples", "4", "--max_eval_samples", "2"]


def assert_words(line, *words):
    assert all(str(word) in line for word in words), line


def test_unknown_choices(explain):
    assert_words(explain("--strategy", "softplus"), "--strategy", "'softplus'", "stable_softplus", "orthogonal")
    assert_words(explain("--scope", "encoder"), "--scope", "'encoder'", "projections", "certified")
    assert_words(explain("--lambda_lip", "-1"), "--lambda_lip", "-1")
    assert_words(explain("--no_such_option", "1"), "--no_such_option", "--help")


def test_unknown_key_of_a_configuration(explain, tmp_path):
    (tmp_path / "my.yaml").write_text("lamda_lip: 0.1\n")
    assert_words(explain("--config", "my.yaml"), "my.yaml", "'lamda_lip'", "'lambda_lip'")
    (tmp_path / "my.yaml").write_text("strategy: softplus\n")
    assert_words(explain("--config", "my.yaml"), "--strategy", "'softplus'", "stable_softplus")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_mask_value_outside_the_classes(explain, pairs, tiny, workers):
    file = pairs / "annotations" / "training" / "2.png"
    Image.fromarray(np.full((40, 40), 7, dtype=np.uint8)).save(file)
    options = ["--dataset", str(pairs), "--class_names", "ground,line", *tiny, "--max_steps", "4"]
    line = explain(*options, "--dataloader_num_workers", workers, "--output_dir", f"out{workers}")
    assert_words(line, file, "value 7", "2 classes", "--ignore_label")


def test_image_and_mask_of_different_sizes(explain, pairs, tiny):
    for folder in ("training", "validation"):
        Image.new("L", (30, 40)).save(pairs / "annotations" / folder / "0.png")
    line = explain("--dataset", str(pairs), "--class_names", "a,b", *tiny, "--max_steps", "4")
    assert_words(line, "0.png", "30x40", "40x40")


@pytest.mark.parametrize(("gone", "left"), [("annotations", "mask"), ("images", "image")])
def test_one_of_a_pair_is_missing(explain, pairs, tiny, gone, left):
    (pairs / gone / "validation" / "1.png").unlink()
    line = explain("--dataset", str(pairs), *tiny)
    assert_words(line, "1.png", f"without {left}", pairs / gone / "validation")


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_truncated_file_and_no_image(explain, pairs, tiny, kind):
    file = pairs / kind / "training" / "0.png"
    whole = np.random.default_rng(0).integers(0, 2, (40, 40), dtype=np.uint8)
    Image.fromarray(whole).save(file)
    for content in (file.read_bytes()[:70], b"<html>not found</html>"):
        file.write_bytes(content)
        line = explain(
            "--dataset",
            str(pairs),
            "--class_names",
            "a,b",
            *tiny,
            "--max_steps",
            "4",
            "--output_dir",
            f"out{len(content)}",
        )
        assert_words(line, file)


def test_empty_folder(explain, pairs, tiny):
    for file in (pairs / "images" / "training").iterdir():
        file.unlink()
    assert_words(explain("--dataset", str(pairs), *tiny), pairs / "images" / "training", "no image files")
    assert_words(explain("--dataset", str(pairs / "nowhere"), *tiny), "nowhere", "no such folder")


def test_missing_split(explain, pairs, tiny, tmp_path):
    line = explain("--dataset", str(pairs), "--validation_split", "test", *tiny)
    assert_words(line, "'test'", "--validation_split", "training")
    for name in ("cat", "dog"):
        (tmp_path / "classes" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "classes" / "train" / name / "0.png")
    line = explain("--dataset", str(tmp_path / "classes"), *tiny, task="classification")
    assert_words(line, "'validation'", "--validation_split")


def test_checkpoint_that_is_not_a_segformer(explain, tmp_path, tiny):
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    options = [*tiny[2:], *DIGITS, "--model_name_or_path"]
    assert_words(explain(*options, str(tmp_path / "bert")), "bert", "not a SegFormer", "nvidia/mit-b0")
    (tmp_path / "empty").mkdir()
    assert_words(explain(*options, str(tmp_path / "empty")), "empty has no config.json", "give the folder")
    assert_words(explain(*options, "./nowhere"), "nowhere", "--architecture tiny")


def test_options_of_a_strategy(explain, tiny):
    options = [*tiny, *DIGITS, "--strategy", "stable_softplus", "--lipschitz_options"]
    assert_words(explain(*options, "{norm"), "--lipschitz_options", "JSON")
    assert_words(explain(*options, '{"speed": 1}'), "--lipschitz_options", "speed")


def test_output_folder_that_holds_another_run(explain, segmentation_run, tmp_path, tiny):
    folder = segmentation_run[0]
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    line = explain(*tiny, *DIGITS, "--output_dir", str(folder))
    assert_words(line, "--output_dir", folder, "--resume_from_checkpoint")
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    (tmp_path / "file").write_text("mine")
    assert_words(explain(*tiny, *DIGITS, "--output_dir", "file"), "--output_dir file", "folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_to_continue(explain, tmp_path, tiny):
    line = explain(*tiny, *DIGITS, "--output_dir", "new", "--resume_from_checkpoint")
    assert_words(line, "new", "no checkpoint")
    line = explain(*tiny, *DIGITS, "--output_dir", "new", "--resume_from_checkpoint", "absent")
    assert_words(line, "--resume_from_checkpoint absent", "no such folder")
    assert not (tmp_path / "new").exists()
    # A finished model without checkpoints is not begun anew over itself.
    (tmp_path / "model").mkdir()
    for name in ("run.yaml", "config.json"):
        (tmp_path / "model" / name).write_text("{}")
    line = explain(*tiny, *DIGITS, "--output_dir", "model", "--resume_from_checkpoint")
    assert_words(line, "model", "no checkpoint")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory(explain, tiny, monkeypatch, error):
    def train(*arguments, **options):
        raise error

    monkeypatch.setattr("lrsegformer.training.run.finetune.LRSegformerTrainer.train", train)
    assert_words(explain(*tiny, *DIGITS), "out of memory", "--per_device_train_batch_size")


def test_interrupt(tiny, monkeypatch, tmp_path, capsys):
    def train(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lrsegformer.training.run.finetune.LRSegformerTrainer.train", train)
    with pytest.raises(SystemExit) as stop:
        main("segmentation", [*tiny, *DIGITS])
    assert stop.value.code == 130
    errors = capsys.readouterr().err
    assert "Traceback" not in errors and errors.splitlines()[-1].startswith("stopped: ")
    assert_words(errors.splitlines()[-1], "--resume_from_checkpoint", "last checkpoint")


def test_other_errors_are_not_hidden(tiny, monkeypatch, tmp_path):
    def train(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lrsegformer.training.run.finetune.LRSegformerTrainer.train", train)
    with pytest.raises(RuntimeError, match="a bug"):
        main("segmentation", [*tiny, *DIGITS])


def gated(*arguments, **options):
    # Not through its constructor: that wants a response of whichever HTTP client the library uses.
    raise GatedRepoError.__new__(GatedRepoError)


def test_gated_data_set(explain, tiny, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", gated)
    line = explain(*tiny, task="classification")
    assert_words(line, "ILSVRC/imagenet-1k", "hf auth login", "https://huggingface.co/datasets/ILSVRC/imagenet-1k")


def test_gated_checkpoint(explain, tiny, monkeypatch):
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", gated)
    line = explain(*tiny[2:], *DIGITS, "--model_name_or_path", "someone/gated-segformer")
    assert_words(line, "someone/gated-segformer", "hf auth login", "https://huggingface.co/someone/gated-segformer")


@pytest.mark.slow
def test_main_command_without_a_network(run_script, tmp_path):
    """The first line of the README, as a user types it."""
    process = run_script("finetune_seg.py", "--strategy", "stable_softplus", folder=tmp_path, HF_HOME=str(tmp_path))
    assert process.returncode == 2 and "Traceback" not in process.stderr
    line = process.stderr.splitlines()[-1]
    assert line.startswith("error: "), process.stderr
    assert_words(line, "merve/scene_parse_150", "--dataset digits", "local folder")


def test_a_run_that_failed_before_its_first_checkpoint_is_begun_anew(explain, pairs, tiny, tmp_path, caplog):
    file = pairs / "images" / "training" / "0.png"
    right = file.read_bytes()
    Image.new("RGB", (30, 40)).save(file)
    options = ["--dataset", str(pairs), "--class_names", "a,b", *tiny, "--max_steps", "2", "--output_dir", "out"]
    assert_words(explain(*options), file, "30x40")

    file.write_bytes(right)
    main("segmentation", [*options, "--resume_from_checkpoint"])
    assert "starting it anew" in caplog.text
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["classes"] == ["a", "b"]
