"""A report of certificates as a whole, of a stand-in with known constants on the built-in digits."""

import csv
import json
import math
import shutil

import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import SegformerImageProcessorPil

from lrsegformer.data import load_data
from lrsegformer.errors import BrokenCertificateError, InputError
from lrsegformer.evaluation.picture_parts import read_parts
from lrsegformer.hub.digests import file_digests
from lrsegformer.hub.sections import current_sections
from lrsegformer.reporting.reading.collection import collect
from lrsegformer.robustness.bench.arguments import BenchDataArguments
from lrsegformer.robustness.certificates.arguments import CertificateArguments
from lrsegformer.robustness.certificates.run import run_certificates
from tests.hub.test_card import card_of

DATA = BenchDataArguments(dataset="digits", image_size=32, max_eval_samples=2)
DEFAULTS = {"radii": ["0.02", "0.1", "0.3"], "seed": 0, "pictures": 0}


@pytest.fixture(scope="module")
def folders(make_model, make_stock, tmp_path_factory):
    """Checkpoints of ours and stock, of both tasks."""
    root = tmp_path_factory.mktemp("models")
    made = {
        "head": make_model("stable_softplus", num_labels=11),
        "baseline": make_model(num_labels=11),
        "certified": make_model("orthogonal", scope="certified", num_labels=11),
        "network": make_model("orthogonal", scope="network", num_labels=11),
        "projections": make_model("orthogonal", scope="projections", num_labels=11),
        "stock": make_stock(num_labels=11),
        "classifier": make_model("orthogonal", task="classification", num_labels=10),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / name)
    return {name: str(root / name) for name in made}


def run(folders, output, names=("baseline",), **options):
    models = [str(folders[name]) for name in names]
    return run_certificates(
        CertificateArguments(models=models, output_dir=str(output), **{**DEFAULTS, **options}), DATA
    )


def images_and_labels(task="segmentation"):
    splits = load_data(DATA, task, 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    items = [splits.validation[index] for index in range(2)]
    labels = [torch.as_tensor(item["labels"]).long() for item in items]
    return torch.stack([item["pixel_values"] for item in items]), torch.stack(labels)


def radii_by_hand(model, images, constant):
    """Radii of every pixel in float64, from upsampled logits and pairs of rows."""
    logits = model(images).double()
    upsampled = functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
    apart = torch.cdist(model.classifier_rows(), model.classifier_rows(), compute_mode="donot_use_mm_for_euclid_dist")
    top = upsampled.argmax(dim=1)
    margins = upsampled.amax(dim=1, keepdim=True) - upsampled
    distances = margins / apart[top].permute(0, 3, 1, 2)
    return top, distances.scatter(1, top[:, None], torch.inf).amin(dim=1) / constant


def test_certified_scores_are_those_of_a_direct_computation(folders, stand_in, prepared_stand_in, tmp_path):
    model = stand_in()
    prepared_stand_in(model)
    report = run(folders, tmp_path, norms=["l2", "per_pixel_l2"])
    images, labels = images_and_labels()
    for norm, constant in (("l2", 0.5), ("per_pixel_l2", 1.0)):
        top, radii = radii_by_hand(model, images, constant)
        rows = [row for row in report["rows"] if row["norm"] == norm]
        assert [row["radius"] for row in rows] == [0.02, 0.1, 0.3] and all(row["reach"] == "network" for row in rows)
        for row in rows:
            expected = ((top == labels) & (radii > row["radius"])).double().mean()
            assert row["per_pixel_accuracy"] == pytest.approx(float(expected), abs=2 / labels.numel())
            assert row["certified_share"] == pytest.approx(float((radii > row["radius"]).double().mean()), abs=1e-3)
            assert row["clean_accuracy"] == pytest.approx(float((top == labels).double().mean()), abs=1e-3)
            assert 0 <= row["certified_mean_iou"] <= row["clean_mean_iou"]
    bounds = report["models"]["baseline"]["bounds"]["l2"]
    assert bounds["l2_to_per_pixel"] == pytest.approx(0.5, rel=1e-5)
    assert bounds["upsampling_l2_to_l2"] == pytest.approx(2.0, rel=0.02)


def test_no_attack_goes_below_a_certified_score(folders, stand_in, prepared_stand_in, tmp_path):
    prepared_stand_in(stand_in(scale=3.0))
    report = run(
        folders, tmp_path, norms=["l2", "per_pixel_l2"], attacks=["pgd", "cospgd"], steps=4, radii=["0.1", "0.3"]
    )
    assert len(report["rows"]) == 4
    attacked = [row["attacked"] for row in report["rows"]]
    assert all(set(found) == {"pgd", "cospgd"} for found in attacked)
    for row in report["rows"]:
        for scores in row["attacked"].values():
            assert row["certified_accuracy"] <= scores["accuracy"] <= row["clean_accuracy"]
    assert attacked[-1]["pgd"]["accuracy"] < report["rows"][-1]["clean_accuracy"], "the attack does something"
    assert report["rows"][0]["certified_accuracy"] > 0


def test_a_constant_that_is_too_small_stops_the_report(folders, stand_in, prepared_stand_in, tmp_path):
    prepared_stand_in(stand_in(scale=3.0, claimed=0.01))
    with pytest.raises(BrokenCertificateError, match=r"baseline, l2 radius 0\.3.*certified.*attacked by pgd"):
        run(folders, tmp_path, attacks=["pgd"], steps=5, radii=["0.3"])
    assert not (tmp_path / "results.md").exists() and not (tmp_path / "results.json").exists()


def test_what_has_no_certificate_says_so_and_is_scored_all_the_same(folders, tmp_path):
    report = run(folders, tmp_path, names=("head", "baseline", "projections", "stock"), radii=["0.1"])
    notes = {name: found["note"] for name, found in report["models"].items()}
    assert "feature space, not in pixels" in notes["head"]
    assert "baseline" in notes["baseline"] and "'projections'" in notes["projections"] and "stock" in notes["stock"]
    for row in report["rows"]:
        if row["reach"] == "feature space":
            assert row["model"] == "head" and row["norm"] == "feature space" and not row["attacked"]
            assert row["certified_accuracy"] <= row["clean_accuracy"]
        else:
            assert row["certified_accuracy"] is None and row["clean_accuracy"] is not None
    text = (tmp_path / "results.md").read_text()
    assert "## Perturbations of the features" in text and "say nothing about perturbed pixels" in text


def test_a_certified_network_from_its_folder(folders, tmp_path):
    runs = {name: shutil.copytree(folders[name], tmp_path / name) for name in ("certified", "network")}
    for folder in runs.values():
        card_of(folder)
    report = run(
        runs,
        tmp_path / "report",
        names=("certified", "network"),
        attacks=["pgd"],
        steps=2,
        norms=["per_pixel_l2"],
        radii=["0.02"],
    )
    rows = [row for row in report["rows"] if row["model"] == "certified"]
    assert [row["reach"] for row in rows] == ["network"] and report["models"]["certified"]["reach"] == "network"
    for row in rows:
        assert row["certified_accuracy"] <= row["attacked"]["pgd"]["accuracy"] <= row["clean_accuracy"]
        assert row["certified_share"] >= 0
    assert report["models"]["certified"]["bounds"]["per_pixel_l2"]["per_pixel_to_per_pixel"] > 0
    assert report["models"]["network"]["reach"] == "feature space"
    check_card(runs["certified"], report, rows)
    assert "say nothing about perturbed pixels" in current_sections(runs["network"])["certificates"]


def check_card(folder, report, rows):
    """The model's part of the report lies in its folder, and its card shows those numbers, in percent."""
    kept = json.loads((folder / "certificates.json").read_text())
    assert kept["rows"] == rows and kept["files"] == report["models"]["certified"]["files"] == file_digests(folder)
    section = current_sections(folder)["certificates"]
    (row,) = rows
    (line,) = (line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| certified | pro"))
    shown = [row["clean_mean_iou"], row["attacked"]["pgd"]["mean_iou"], None, row["clean_accuracy"]]
    for cell, score in zip(line[4:8], shown, strict=True):
        assert score is None or cell == f"{100 * score:.2f}"
    assert float(line[6]) <= 100 * row["certified_mean_iou"] < float(line[6]) + 0.01
    assert (folder / "certificates.png").is_file() and str(folder.parent) not in json.dumps(kept)


def test_a_model_without_a_certificate_gets_no_section(folders, tmp_path):
    folder = shutil.copytree(folders["baseline"], tmp_path / "baseline")
    card_of(folder)
    run({"baseline": folder}, tmp_path / "report")
    assert not (folder / "certificates.json").exists() and current_sections(folder) == {}


def test_classification_in_feature_space_and_smoothed(folders, tmp_path):
    report = run(folders, tmp_path, names=("classifier",), smoothing=True, sigma=0.1, n0=3, n=30, alpha=0.05)
    methods = [row["method"] for row in report["rows"]]
    assert methods == ["proven"] * 3 + ["none"] * 3 + ["smoothing"] * 3
    smoothed = report["rows"][-3:]
    assert all(row["probability"] == 0.95 and row["certified_mean_iou"] is None for row in smoothed)
    certified = [row["certified_accuracy"] for row in smoothed]
    assert sorted(certified, reverse=True) == certified and certified[0] <= smoothed[0]["clean_accuracy"]


def test_smoothing_does_not_depend_on_the_batch_size(folders, tmp_path):
    rows = [
        run(folders, tmp_path / str(batch_size), smoothing=True, sigma=0.05, n0=3, n=50, batch_size=batch_size)["rows"]
        for batch_size in (7, 64)
    ]
    assert rows[0] == rows[1]
    smoothed = [row for row in rows[0] if row["method"] == "smoothing"]
    assert smoothed[0]["certified_share"] > 0 and smoothed[-1]["certified_share"] == 0


def test_the_files_of_a_report(folders, stand_in, prepared_stand_in, tmp_path):
    prepared_stand_in(stand_in())
    report = run(folders, tmp_path, norms=["l2", "per_pixel_l2"], attacks=["pgd"], steps=1, pictures=1)
    assert json.loads((tmp_path / "results.json").read_text()) == report
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["certified_accuracy"]) for line in lines] == [
        row["certified_accuracy"] for row in report["rows"]
    ]
    assert float(lines[0]["pgd_accuracy"]) == report["rows"][0]["attacked"]["pgd"]["accuracy"]
    pictures = report["models"]["baseline"]["pictures"]
    assert len(pictures) == 1
    for picture in (tmp_path / "curves.png", *(tmp_path / "pictures" / name for name in pictures)):
        with Image.open(picture) as image:
            assert image.width > 300 and len(image.convert("RGB").getcolors(10**6)) > 20
    curve = report["models"]["baseline"]["curves"]["l2"]
    assert [share for _, share in curve] == sorted((share for _, share in curve), reverse=True)
    text = (tmp_path / "results.md").read_text()
    assert "proven" in text and "0.1)" in text and "rounding inside the forward pass is not covered" in text
    assert "per_pixel_l2" in (tmp_path / "run.yaml").read_text()
    parts = {part.name: image for part, image in read_parts(tmp_path / "pictures" / pictures[0])}
    assert list(parts) == ["clean", "truth", "clean_prediction", "certified_radius"]
    assert len({image.size for image in parts.values()}) == 1 and parts["clean"].width > 300
    # What a page reads of it.
    read = collect([tmp_path]).reports[0]
    assert len(read.certified) == len(report["rows"]) and read.names == {"baseline": folders["baseline"]}
    assert {row.radius for row in read.measured if row.kind == "attack"} == {0.02, 0.1, 0.3}


def test_a_folder_with_another_report_is_left_alone(folders, tmp_path):
    (tmp_path / "results.json").write_text('{"task": "segmentation"}')
    with pytest.raises(InputError, match="holds results.json, which this command did not write"):
        run(folders, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_its_own_report_is_written_anew_and_attacks_are_kept(folders, tmp_path, monkeypatch):
    from lrsegformer.robustness.bench import bench

    first = run(folders, tmp_path, attacks=["pgd"], steps=1, radii=["0.1"])
    monkeypatch.setattr(bench, "measure", lambda *arguments: pytest.fail("finished before"))
    again = run(folders, tmp_path, attacks=["pgd"], steps=1, radii=["0.1"])
    assert again["rows"] == first["rows"]


def test_collective_certificates_lift_the_score(folders, stand_in, prepared_stand_in, tmp_path):
    """Where all pixels would be lost one by one, few of them can flip together."""
    prepared_stand_in(stand_in())
    report = run(folders, tmp_path, radii=["0.3", "1.2"])
    for row in report["rows"]:
        assert row["certified_accuracy"] >= max(row["per_pixel_accuracy"], row["collective_accuracy"])
    large = report["rows"][-1]
    assert large["collective_accuracy"] > large["per_pixel_accuracy"] + 0.05
    assert math.isclose(report["rows"][0]["probability"], 1.0)
