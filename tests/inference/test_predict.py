"""`lrsegformer predict`: the files that it writes, and how it continues."""

import csv
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lrsegformer import writing
from lrsegformer.cli import predict
from lrsegformer.cli.failures import run_or_explain
from lrsegformer.inference import Predictor, folder, stream


@pytest.fixture
def run(exit_status):
    """`run(*words)`: the exit status of a command line (0 where it ends by itself)."""
    return partial(exit_status, predict.main)


def table(file):
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_the_files(run, saved_models, photographs, tmp_path, capsys):
    model = saved_models / "certified"
    assert run(model, photographs, "--output_dir", "out", "--confidence", "--certified_radius") == 1
    out, errors = capsys.readouterr()
    assert "5 predicted" in out and "1 could not be read: see unreadable.txt" in errors
    reason = "cannot be read (not an image that Pillow can read); replace or remove the file\n"
    assert (tmp_path / "out" / "unreadable.txt").read_text() == f"{photographs / 'broken.jpg'}: {reason}"
    names = ["deeper/frame1", "frame1", "frame2", "frame10", "turned"]
    rows = table(tmp_path / "out" / "class_shares.csv")
    assert [row["image"] for row in rows] == names
    predictor = Predictor.from_pretrained(model, confidence=True, certified_radius=True)
    for name, row in zip(names, rows, strict=True):
        file = photographs / f"{name}{'.jpg' if name == 'turned' else '.png'}"
        expected = predictor(file)
        with Image.open(tmp_path / "out" / "classes" / f"{name}.png") as picture:
            assert picture.mode == "P" and np.array_equal(np.asarray(picture), expected.classes)
            assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(expected.class_map().convert("RGB")))
        with Image.open(tmp_path / "out" / "confidence" / f"{name}.png") as picture:
            assert picture.mode == "L"
            # A batch of another size rounds otherwise.
            assert np.abs(np.asarray(picture) - 255 * expected.confidence).max() < 0.51
        radius = np.load(tmp_path / "out" / "certified_radius" / f"{name}.npy")
        assert radius.dtype == np.float32 and np.allclose(radius, expected.certified_radius, rtol=1e-3, atol=1e-5)
        assert (int(row["width"]), int(row["height"])) == expected.image.size
        shares = {one: float(row[one]) for one in predictor.class_names if float(row[one])}
        assert shares == pytest.approx(expected.shares(), abs=1e-6)
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.jpg") as overlay:
            width, height = expected.image.size
            assert overlay.width >= width and overlay.height > height  # the legend is below
            shown = np.asarray(overlay)[:height, :width].astype(int)
            assert np.abs(shown - np.asarray(expected.overlay())).mean() < 6
    assert not list((tmp_path / "out").rglob("*.part"))


def test_classes_of_images(run, saved_models, photographs, tmp_path):
    model = saved_models / "certified_classifier"
    words = (photographs / "frame1.png", photographs / "turned.jpg", "--output_dir", "out")
    assert run(model, *words, "--certified_radius") == 0
    rows = table(tmp_path / "out" / "predictions.csv")
    predictor = Predictor.from_pretrained(model, certified_radius=True)
    for row, file in zip(rows, words, strict=False):
        expected = predictor(file)
        assert row["image"] == file.stem and row["class_1"] == expected.name
        assert float(row["probability_1"]) == pytest.approx(expected.probabilities.max(), abs=1e-5)
        assert float(row["certified_radius_l2"]) == pytest.approx(expected.certified_radius, rel=1e-3)
        assert sum(float(row[f"probability_{number}"]) for number in range(1, 6)) == pytest.approx(1, abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "done.jsonl",
        "predict.json",
        "predictions.csv",
    ]


@pytest.mark.parametrize("options", [("--batch_size", "1"), ("--dataloader_num_workers", "2")])
def test_batches_and_workers_change_nothing(run, saved_models, photographs, tmp_path, options):
    assert run(saved_models / "ours", photographs, "--output_dir", "out") == 1
    assert run(saved_models / "ours", photographs, "--output_dir", "other", *options) == 1
    for file in (tmp_path / "out" / "classes").rglob("*.png"):
        other = tmp_path / "other" / file.relative_to(tmp_path / "out")
        assert (np.asarray(Image.open(file)) == np.asarray(Image.open(other))).mean() > 0.999
    assert (tmp_path / "out" / "unreadable.txt").read_text() == (tmp_path / "other" / "unreadable.txt").read_text()
    assert len(table(tmp_path / "other" / "class_shares.csv")) == 5


def test_processes_share_the_images(saved_models, photographs, tmp_path):
    """Of two processes with two workers each, every image falls to one."""
    from lrsegformer.data import ImageReading
    from lrsegformer.inference.files import find_files

    files = find_files([str(photographs)], tmp_path / "out")
    names = []
    for rank in (0, 1):
        images = stream.ImageStream(files, lambda image: [], ImageReading(), lambda file, name: False, rank, 2)
        names += [one.name for several in stream.batches(images, 2, 2) for one in several]
    assert sorted(names) == sorted(file.name for file in files)


def test_a_stopped_command_continues(run, saved_models, photographs, tmp_path, monkeypatch, capsys):
    out, words = tmp_path / "out", (saved_models / "ours", photographs, "--output_dir", "out", "--batch_size", "1")
    written, save = [], folder.PredictionFolder.write

    def stop_after_two(self, file, name, prediction):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        save(self, file, name, prediction)

    monkeypatch.setattr(folder.PredictionFolder, "write", stop_after_two)
    assert run(*words) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert not (out / "class_shares.csv").exists()
    (out / "done.jsonl").write_bytes((out / "done.jsonl").read_bytes() + b'{"name": "frame2", "sou')
    stamps = {name: (out / "classes" / f"{name}.png").stat().st_mtime_ns for name in written}
    monkeypatch.setattr(folder.PredictionFolder, "write", save)
    assert run(*words) == 1
    assert "3 predicted, 2 done before" in capsys.readouterr().out
    assert stamps == {name: (out / "classes" / f"{name}.png").stat().st_mtime_ns for name in written}
    assert len(table(out / "class_shares.csv")) == 5
    # What is gone or has changed is made again, and only that; what can be read now is no longer listed.
    (out / "overlays" / "frame2.jpg").unlink()
    Image.new("RGB", (64, 64), "red").save(photographs / "frame1.png")
    Image.new("RGB", (64, 64), "blue").save(photographs / "broken.jpg")
    assert run(*words) == 0
    assert "3 predicted, 3 done before" in capsys.readouterr().out
    assert not (out / "unreadable.txt").exists()
    assert [row["height"] for row in table(out / "class_shares.csv") if row["image"] == "frame1"] == ["64"]


def test_a_crash_leaves_no_half_written_file(run, saved_models, photographs, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise OSError(28, "No space left on device", "x.png")

    monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(SystemExit) as stop:
        run_or_explain(
            lambda: predict._run(
                [str(saved_models / "ours"), str(photographs), "--output_dir", str(tmp_path / "out")]
            ),
            predict.REMEDIES,
        )
    assert stop.value.code == 2
    assert not list((tmp_path / "out").rglob("*.png")) and not (tmp_path / "out" / "done.jsonl").exists()


def test_videos(run, saved_models, tmp_path, capsys):
    av = pytest.importorskip("av")
    frames = [np.full((64, 80, 3), 30 * number, np.uint8) for number in range(5)]
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width, video.height, video.pix_fmt = 80, 64, "yuv420p"
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(video.encode())
    (tmp_path / "torn.mp4").write_text("no video")
    assert run(saved_models / "ours", "clip.mp4", "torn.mp4", "--output_dir", "out") == 1
    assert "torn.mp4: cannot be read" in (tmp_path / "out" / "unreadable.txt").read_text()
    rows = table(tmp_path / "out" / "class_shares.csv")
    assert [row["image"] for row in rows] == [f"clip/{number:06d}" for number in range(1, 6)]
    predictor = Predictor.from_pretrained(saved_models / "ours")
    first = predictor(Image.fromarray(frames[0]))
    shown = np.asarray(Image.open(tmp_path / "out" / "classes" / "clip" / "000001.png"))
    assert (shown == first.classes).mean() > 0.95  # but for what the video's compression changes
    assert run(saved_models / "ours", "clip.mp4", "--output_dir", "out", "--dataloader_num_workers", "2") == 0
    assert "0 predicted, 5 done before" in capsys.readouterr().out


def test_frames_are_turned_as_players_turn_them():
    from lrsegformer.inference.video import _upright

    class Frame:
        rotation = -90  # counterclockwise

        def to_ndarray(self, format):
            return np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

    assert np.array_equal(np.asarray(_upright(Frame())), np.rot90(Frame().to_ndarray("rgb24"), 3))


BAD = [
    (["{ours}", "missing.png", "--output_dir", "new"], "missing.png: no such file or folder; check the path"),
    (["{ours}", "{images}"], "--output_dir"),
    (["{ours}", "--output_dir", "new"], "IMAGE"),
    (["nowhere/at/all", "{images}", "--output_dir", "new"], "MODEL nowhere/at/all: no such folder"),
    (["{ours}", "{images}", "--output_dir", "new", "--protocol", "half"], "--protocol"),
    (
        ["{ours}", "{images}", "--output_dir", "new", "--protocol", "slide", "--stride", "600"],
        "--stride 600 is longer",
    ),
    (["{ours}", "{images}", "--output_dir", "new", "--window", "99"], "--window 99 is of the protocol slide"),
    (["{ours}", "{images}", "--output_dir", "new", "--batch_size", "0"], "--batch_size is 0"),
    (
        ["{ours}", "{images}", "--output_dir", "new", "--dataloader_num_workers", "-1"],
        "--dataloader_num_workers is -1",
    ),
    (["{ours}", "{images}", "--output_dir", "new", "--image_bands", "0"], "--image_bands 0"),
    (["{ours}", "{images}", "--output_dir", "new", "--certified_radius"], "Certified in feature space"),
    (["{stock}", "{images}", "--output_dir", "new", "--certified_radius"], "No certificate: a stock model"),
    (
        ["{ours}", "{images}", "--output_dir", "new", "--certified_radius", "--protocol", "slide"],
        "--certified_radius with --protocol slide",
    ),
    (["{classifier}", "{images}", "--output_dir", "new", "--confidence"], "--confidence is for segmentation"),
    (["{ours}", "{images}", "--output_dir", "other"], "--output_dir other holds other files"),
    (["{ours}", "{images}", "--output_dir", "other/file"], "--output_dir other/file is a file"),
    (["{ours}", "{images}", "--output_dir", "begun"], "--output_dir begun holds predictions of another model"),
    (
        ["{stock}", "{images}", "--output_dir", "begun", "--confidence"],
        "--output_dir begun holds predictions of another choice of --confidence",
    ),
    (["{stock}", "else/frame1.png", "--output_dir", "begun"], "holds the prediction of another file of this name"),
    (["{stock}", "{images}", "--output_dir", "torn"], "cannot be read as what predictions are of"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_ends_in_one_line(run, saved_models, photographs, tmp_path, capsys, words, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "predict.json").write_text("[]")
    (tmp_path / "else").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "else" / "frame1.png")
    if "begun" in words:
        assert run(saved_models / "stock", photographs / "frame1.png", "--output_dir", "begun") == 0
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    known = {name: saved_models / name for name in ("ours", "stock", "classifier")}
    assert run(*(word.format(**known, images=photographs / "frame1.png") for word in words)) == 2
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in errors and "usage:" not in errors, errors
    assert sorted(tmp_path.rglob("*")) == before


def test_what_the_folder_says_of_itself(run, saved_models, photographs, tmp_path):
    run(saved_models / "stock", photographs / "frame1.png", "--output_dir", "out", "--protocol", "slide")
    said = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert said["model"] == str(saved_models / "stock") and said["classes"] == ["sky", "road", "tree", "car", "_other"]
    assert said["identity"]["protocol"] == ["slide", 512, 341]


def test_without_the_library_videos_are_refused_in_one_line(run, saved_models, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").touch()
    assert run(saved_models / "ours", "clip.mp4", "--output_dir", "out") == 2
    assert "this needs the package av: pip install lrsegformer[video]" in capsys.readouterr().err
