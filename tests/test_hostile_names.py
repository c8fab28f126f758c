"""Names from data come out as text: in cards, pages, tables, pictures, logs and errors."""

import csv
import io
import json
import logging
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from lrsegformer.cli.failures import Remedies, run_or_explain
from lrsegformer.errors import InputError
from lrsegformer.evaluation import palette, save_classification_samples, save_samples
from lrsegformer.evaluation.confusion_figure import save_confusion_matrix
from lrsegformer.hub import write_model_card
from lrsegformer.hub.markdown import code, code_block, plain, table
from lrsegformer.inference.pictures import overlay_with_legend
from lrsegformer.inference.prediction import MapPrediction
from lrsegformer.matrix.summary import write_summary
from lrsegformer.reporting.charts.canvas import Canvas
from lrsegformer.robustness.certificates.pictures import CertifiedPicture, save_certified_picture
from lrsegformer.robustness.certificates.text import certificates_text
from lrsegformer.robustness.conditions import Condition
from lrsegformer.robustness.report.curves import save_robustness_curves
from lrsegformer.robustness.report.files import write_report
from lrsegformer.robustness.report.sheets import Sample, save_sheet
from lrsegformer.visible import csv_text, log_plainly, one_line, tell, visible
from lrsegformer.writing import write_whole
from tests.hostile_names import NAMES, Page, rendered

ALL = list(NAMES.values())
each_name = pytest.mark.parametrize("name", ALL, ids=list(NAMES))


def assert_quiet(text):
    """A terminal shows it, and does nothing else."""
    wrong = [each for each in text if unicodedata.category(each) in ("Cc", "Cf", "Cs") and each not in "\n\u200c"]
    assert not wrong, wrong


@each_name
def test_markdown(name):
    page = rendered(table(("class", "code"), [(plain(name), code(name))]))
    assert [" ".join(cell.split()) for cell in page.cells[2:]] == [one_line(name)] * 2
    for text in (plain(name), f"- {plain(name)}", f"# {plain(name)}", f"a {plain(name)} b", code(name)):
        page = rendered(f"before\n\n{text}\n\nafter")
        assert one_line(name) in " ".join(page.text.split())
        assert [tag for tag, _ in page.tags].count("p") >= 2, "a paragraph of its own before and after"
        assert not {"hr", "blockquote", "ol", "strong", "em", "pre"} & {tag for tag, _ in page.tags}
    block = rendered(f"{code_block(name, 'bash')}\n\n<b>after</b>")
    assert [tag for tag, _ in block.tags] == ["pre", "code", "p", "b"]


@each_name
def test_the_card(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    shares = [0.5] * len(ALL)
    path = write_model_card(
        folder,
        config=SimpleNamespace(lipschitz_strategy=None, id2label=dict(enumerate(ALL))),
        task="segmentation",
        base_model=name,
        dataset_name=name,
        dataset_hub_id=None,
        metrics={"eval_mean_iou": 0.5, "eval_per_category_iou": shares, "eval_per_category_accuracy": shares},
        lipschitz_report={"strategy": None},
        hyperparameters={"image files": name},
        versions={},
        scored="Scored.",
        command=f"lrsegformer finetune-seg --dataset '{name}'",
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    assert_quiet(text)
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "other" and "evil" not in metadata
    (model,) = metadata["model-index"]
    assert model["results"][0]["dataset"]["name"] == one_line(name)
    page = rendered(body, own=("https://github.com/NVlabs",))
    cells = [" ".join(cell.split()) for cell in page.cells]
    for one in ALL:
        assert one_line(one) in cells
    assert {tag for tag, _ in page.tags} <= {
        *("h1", "h2", "p", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary")
    }


@each_name
def test_tables_for_spreadsheets(name):
    (header, (text, number)) = csv.reader(io.StringIO(csv_text([["a", "b"], [name, -0.5]])))
    assert text.removeprefix("'") == name and number == "-0.5" and header == ["a", "b"]
    assert not text.startswith(("=", "+", "@", "\t", "\r"))
    assert not text.startswith("-") or one_line(name) in ("-", "---")


@pytest.mark.one_in(3)
@each_name
def test_the_text_beside_a_matrix_a_bench_and_certificates(tmp_path, name):
    """And their tables as CSV."""
    coordinates = {"task": "segmentation", "variant": "baseline", "strategy": None, "scope": None}
    coordinates |= {"lambda_lip": None, "variation": None, "seed": 0}
    steps = {"robustness": {"command": "robustness", "status": "done"}}
    shown = {**coordinates, "folder": "cell", "steps": steps, "name": "cell", "status": "done", "error": None}
    failed = {**shown, "seed": 1, "name": "other", "status": "failed", "error": f"{name}: no", "steps": {}}
    (tmp_path / "cell" / "robustness").mkdir(parents=True)
    rows = [{"kind": "shifted", "condition": name, "mean_iou": 0.5}]
    content = {"rows": rows, "corruption_summary": [{"score": "mIoU", "source": name, "mean": 0.5}], "reliability": []}
    (tmp_path / "cell" / "robustness" / "results.json").write_text(json.dumps(content))
    write_summary(tmp_path, [shown, failed])
    cells = [make_cell(name, Condition("clean"), 9), make_cell(name, Condition("shifted", name), 8, warnings=[name])]
    context = {"task": "segmentation", "dataset": name, "images": 5, "of": 100, "seed": 3, "score_at": "original"}
    context |= {"inputs": {name: {"size": "64x64", "subset": "0" * 16}}, "bounds": {name: None}, "versions": {}}
    write_report(tmp_path / "bench", cells, {**context, "class_names": [name, "b"]}, {"0" * 16: [name, "b"]}, [])
    model = {
        "note": "",
        "input": "64x64",
        "bounds": {"l2": {"a": 1.0}},
        "seconds": {},
        "resizings": [],
        "pictures": [],
    }
    row = {"model": name, "method": "proven", "reach": "network", "norm": "l2", "radius": 0.1, "probability": 1.0}
    row |= dict.fromkeys(("per_pixel_accuracy", "collective_accuracy", "certified_share"), 0.5)
    row |= {f"{kind}_{score}": 0.5 for kind in ("clean", "certified") for score in ("accuracy", "mean_iou")}
    report = {**context, "models": {name: model}, "rows": [{**row, "attacked": {name: {"accuracy": 0.5}}}]}
    texts = [certificates_text({**report, "versions": {"torch": "2"}})]
    texts += [path.read_text(encoding="utf-8") for path in sorted(tmp_path.rglob("*.md"))]
    assert len(texts) == 3
    for text in texts:
        assert_quiet(text)
        assert one_line(name) in " ".join(rendered(text, own=("curves.png", "pictures/")).text.split())
    for path in tmp_path.rglob("*.csv"):
        for line in csv.reader(path.read_text(encoding="utf-8").splitlines()):
            assert not [cell for cell in line if cell.startswith(("=", "+", "@"))]


@each_name
def test_what_is_printed(name, capsys):
    tell(name)
    assert_quiet(capsys.readouterr().out)

    def fail():
        raise InputError(f"{name}: no such class")

    with pytest.raises(SystemExit):
        run_or_explain(fail, Remedies("", ""))
    errors = capsys.readouterr().err
    assert_quiet(errors)
    assert errors.count("\n") == 1 and errors.endswith(": no such class\n")


@each_name
def test_what_is_logged(name, capsys, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    log_plainly()
    logging.getLogger("lrsegformer.test").warning("%s has no mask", name)
    errors = capsys.readouterr().err
    assert_quiet(errors)
    assert errors.endswith(" has no mask\n")


@each_name
def test_files_take_any_name(tmp_path, name):
    write_whole(tmp_path / "names.txt", name)
    assert visible(name) == visible((tmp_path / "names.txt").read_bytes().decode()) or "\\ud" in ascii(name)


def test_tokens_are_not_printed(capsys):
    tell("push with hf_abcdefghijklmnopqrstuvwxyz and hf_transfer")
    assert "abcdefgh" not in capsys.readouterr().out


@pytest.mark.one_in(5)
@each_name
def test_a_chart_of_the_page(name):
    canvas = Canvas(name, "x", name)
    canvas.line([(0, 1), (1, 2)], "tone-1", "A", 0, [name, "b"])
    svg = canvas.svg()
    assert_quiet(svg)
    page = Page(svg).check()
    assert visible(name) in page.text.replace("\n", "\\n").replace("\r", "\\r")


def make_cell(model, condition, right, **more):
    counts = [[0, 0, right], [0, 1, 10 - right], [1, 1, right], [1, 0, 10 - right]]
    fixed = {"input": "64x64", "num_labels": 2, "images": 5, "of": 100, "subset": "0" * 16, "seed": 3, "seconds": 1.0}
    fixed |= {"device": "cpu", "processes": 1, "versions": {}, "warnings": [], "class_names": [model, "b"]}
    return {**fixed, "key": model, "model": model, "condition": dict(vars(condition)), "counts": counts, **more}


# Of a length for which a picture has room.
NAMED = [name[:40] for name in ALL]


def test_pictures(tmp_path):
    """All names at once, as classes, titles and captions; a file each."""
    classes = np.arange(len(NAMED)).reshape(1, -1).repeat(8, axis=0)
    image = np.zeros((8, len(NAMED), 3), np.uint8)
    title = "\n".join(NAMED)
    drawn = {
        "samples": lambda path: save_samples([image], [classes], [classes], path, palette(len(NAMED)), NAMED),
        "classes": lambda path: save_classification_samples([image] * 6, NAMED[-9:-3], NAMED[-6:], path),
        "confusion": lambda path: save_confusion_matrix(np.eye(len(NAMED)), NAMED, path, title[:200], "pixels"),
        "sheet": lambda path: save_sheet([Sample(image, image, classes, classes, classes)], title[:200], NAMED, path),
        "certified": lambda path: save_certified_picture(
            CertifiedPicture(0, image, classes, classes, np.ones(classes.shape, np.float32)),
            title[:200], "l2", [0.5], NAMED, path,
        ),
        "curves": lambda path: save_robustness_curves(
            [
                {**{"model": one, "kind": kind, "name": two, "norm": "linf", "radius": radius, "mean_iou": 0.5},
                 **{"accuracy": 0.5, "severity": None, "targeted": False}}
                for one, two in zip(NAMED[-12:], NAMED[:12], strict=True)
                for kind, radius in (("clean", None), ("attack", 1.0))
            ],
            {"mean_iou": "mIoU"}, path,
        ),
    }  # fmt: skip
    for name, draw in drawn.items():
        draw(tmp_path / f"{name}.png")
        assert Image.open(tmp_path / f"{name}.png").size[0] > 50
    prediction = MapPrediction(Image.fromarray(image), tuple(NAMED), classes.astype(np.uint8))
    assert overlay_with_legend(prediction).width > 50
    names = ["\n".join(one[:30] for one in NAMED[:-1]), NAMED[-1]]
    picture = CertifiedPicture(0, image, np.array(0), np.array(1), np.array(0.1, np.float32))
    save_certified_picture(picture, "$a_{$", "l2", [0.5], names, tmp_path / "one.png")
