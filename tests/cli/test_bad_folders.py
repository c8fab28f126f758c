"""No command writes over what it did not write, through a link, or where no folder can be: one line, no change."""

import os

import pytest

from lrsegformer.cli.main import main
from lrsegformer.errors import InputError
from lrsegformer.output_folder import mark_of, refuse_links
from lrsegformer.writing import write_whole
from tests.cli.bad_input import DIGITS, Case, link, refuse, stripes

BENCH = "--dataset digits --image_size 64 --max_eval_samples 2 --output_dir out"
LINES = {
    "finetune-seg": f"finetune-seg {DIGITS} --output_dir out",
    "finetune-cls": f"finetune-cls {DIGITS} --output_dir out",
    "run": f"run --task segmentation {DIGITS} --output_dir out",
    "resumed": f"finetune-seg {DIGITS} --output_dir out --resume_from_checkpoint {{world}}/ours",
    "robustness": f"robustness --models {{world}}/ours --attacks pgd --eps 1 {BENCH}",
    "certify": f"certify --models {{world}}/certified {BENCH}",
    "evaluate": f"evaluate {{world}}/ours {BENCH}",
    "predict": "predict {world}/ours image.png --output_dir out",
    "export": "export {world}/ours --format stock onnx --output_dir out",
    "report": "report {world}/runs --output out/report.html",
    "matrix": "run --matrix m.yaml --output_dir out",
}
RUN_FILES = (
    *("README.md", "all_results.json", "config.json", "model.safetensors", "model-00001-of-00002.safetensors"),
    *(
        "preprocessor_config.json",
        "training_args.bin",
        "trainer_state.json",
        "curves.png",
        "bounds.png",
        "samples.png",
    ),
    *("run.yaml", "adapter", "model.safetensors.index.json"),
)
REPORT_FILES = (
    "run.yaml",
    "cells.jsonl",
    "results.json",
    "results.md",
    "results.csv",
    "curves.png",
    "sheets",
    "subsets",
)
WRITTEN = {
    "finetune-seg": RUN_FILES,
    "finetune-cls": RUN_FILES[:3],
    "run": RUN_FILES[:2],
    "resumed": ("README.md", "config.json"),
    "robustness": (*REPORT_FILES, "per_class.csv"),
    "certify": (*REPORT_FILES, "pictures"),
    "evaluate": ("evaluation.json", "worst.png", "confusion_matrix_whole.csv", "confusion_matrix_slide.png"),
    "predict": ("notes.txt", "classes", "done.jsonl"),
    "export": ("stock", "onnx"),
    "report": ("report.html", "report.md"),
    "matrix": ("summary.md", "summary.csv", "matrix.json", "matrix.lock"),
}
FILES = {
    "image.png": stripes(),
    "m.yaml": "tasks: [segmentation]\ncommon: {dataset: digits, architecture: tiny, use_cpu: true}\n",
}
PLACES = {
    "a file": {"out": "mine"},
    "a link to nowhere": {"out": link("nowhere")},
    "a link to a file": {"target": "mine", "out": link("target")},
    "a link to itself": {"out": link("out")},
}
ELSEWHERE = {
    "below a file": ("file/a", "file"),
    "a long name": ("n" * 300, "too long"),
    "of the system": ("/proc/x", "/proc"),
}


def option_of(name):
    return "--output" if name == "report" else "--output_dir"


def occupied(name, file):
    """A person's own file where a command would write."""
    content = {"out/" + file: "mine\n"} if "." in file else {f"out/{file}/notes.txt": "mine\n"}
    return Case(f"{name}-{file}", LINES[name], ("out", "give another"), {**FILES, **content})


MARK = "# {}, whose --config takes this file\nseed: 1\n"
OTHERS = {
    "finetune-seg": {"out/run.yaml": MARK.format(mark_of("finetune-seg")), "out/README.md": "card"},
    "robustness": {"out/run.yaml": MARK.format(mark_of("robustness")), "out/results.json": "{}"},
    "certify": {"out/run.yaml": MARK.format(mark_of("certify")), "out/results.json": '{"report": "certificates"}'},
}


def of_another(name, other):
    """The folder of another command: the line says of which."""
    whose = "another run" if name == "finetune-cls" and other == "finetune-seg" else f"lrsegformer {other}"
    return Case(f"{name} into {other}", LINES[name], ("out", whose, "give another"), {**FILES, **OTHERS[other]})


def linked(name):
    """A file of the folder, whosever that is, is a link out of it."""
    file = WRITTEN[name][-1]
    own = {
        "robustness": OTHERS["robustness"],
        "certify": OTHERS["certify"],
        "predict": {"out/predict.json": '{"identity": {}}'},
    }.get(name, {})
    content = {"elsewhere": "mine\n", **own, f"out/{'x' if file == 'out' else file}": link("../elsewhere")}
    return Case(f"{name}-link", LINES[name], ("out", "give another"), {**FILES, **content})


NESTED = {
    # What leads out of a folder that is the command's own, by its checkpoints or as a cell of it.
    "resumed": (LINES["finetune-seg"] + " --resume_from_checkpoint", "out/checkpoint-9", "../elsewhere"),
    "unfinished": (LINES["finetune-seg"] + " --resume_from_checkpoint", "out/unfinished", "../elsewhere"),
    "matrix": (LINES["matrix"], "out/segmentation-stable_softplus-head-lambda0.1-seed42", "../elsewhere"),
    "log of a cell": (
        LINES["matrix"],
        "out/segmentation-stable_softplus-head-lambda0.1-seed42/train.log",
        "../../elsewhere/x",
    ),
}


def nested(name):
    line, place, target = NESTED[name]
    own = {"out/run.yaml": MARK.format(mark_of("finetune-seg"))} if name in ("resumed", "unfinished") else {}
    content = {**FILES, **own, "elsewhere/x": "mine", place: link(target)}
    return Case(f"{name}, below", line, ("out", "link", "give another"), content)


def placed(name, place):
    # The page is a file inside of the folder.
    return Case(f"{name} into {place}", LINES[name], (option_of(name), "give a"), {**FILES, **PLACES[place]})


def elsewhere(name, place):
    path, word = ELSEWHERE[place]
    line = LINES[name].replace("out/report.html", f"{path}/report.html").replace("_dir out", f"_dir {path}")
    return Case(f"{name} {place}", line, (option_of(name), word, "give a"), {**FILES, "file": "mine"})


CASES = [
    *(occupied(name, file) for name, files in WRITTEN.items() for file in files),
    *(
        of_another(name, other)
        for name in ("finetune-cls", "robustness", "certify")
        for other in OTHERS
        if other != name
    ),
    *(linked(name) for name in LINES),
    *(nested(name) for name in NESTED),
    *(placed(name, place) for name in LINES for place in PLACES),
    # Of a run that is to go on from a checkpoint, the checkpoint is looked at before a folder is made.
    *(
        elsewhere(name, place)
        for name in LINES
        for place in ELSEWHERE
        if (name, place) != ("resumed", "of the system")
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case, tmp_path, world, monkeypatch, capsys):
    refuse(case, tmp_path, world, monkeypatch, capsys)


def test_predictions_below_a_link(tmp_path, world, monkeypatch, capsys):
    """A folder of the command's own, in which a folder has become a link since."""
    line = "predict {world}/ours images --output_dir out"
    case = Case(
        "below a link", line, ("out", "classes/sub", "link"), {"elsewhere/x": "mine", "images/a.png": stripes()}
    )
    case.make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    main(line.replace("{world}", str(world)).split())
    case.files["images/sub/b.png"] = stripes()
    (tmp_path / "out" / "classes" / "sub").symlink_to(tmp_path / "elsewhere")
    refuse(case, tmp_path, world, monkeypatch, capsys)


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/up", "", "a/.."])
def test_names_that_lead_out(name, tmp_path):
    with pytest.raises(InputError, match="lies outside"):
        refuse_links(tmp_path, name)


def test_a_link_where_a_file_is_written_aside(tmp_path):
    """Is replaced, and what it leads to stays."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    for name in ("a.md", "a.part.md"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "out" / "a.md", "text")
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "out" / "a.md").is_symlink()


@pytest.mark.parametrize("name", LINES)
def test_a_closed_folder(name, tmp_path, world, monkeypatch, capsys):
    """Root may write everywhere: the answer of the system is a stand-in."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **how: path != tmp_path and allowed(path, mode, **how))
    case = Case(name, LINES[name], (option_of(name), "cannot be written", "read-only", "give another"), FILES)
    refuse(case, tmp_path, world, monkeypatch, capsys)
