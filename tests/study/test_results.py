"""What docs/study.md declares: paired comparisons, the curve at equal clean score, and what is kept of a matrix."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "study"


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"study_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


results, collect, split_camvid = load("results"), load("collect"), load("split_camvid")
sys.modules["results"] = results  # As a script finds it, in its own folder.
check = load("check")


def run(arm: str, seed: int, clean: float, corrupted: float, weak: float, attacked: float):
    conditions = {
        "clean": {"mean_iou": clean},
        "mean of corruptions (in memory)": {"mean_iou": corrupted},
        "pgd-linf-0.5": {"mean_iou": weak},
        "pgd-linf-1": {"mean_iou": attacked},
    }
    return results.Run(arm, "segmentation", seed, {"seen": conditions})


def test_a_difference_is_paired_by_seed_and_supported_only_beyond_twice_its_standard_error():
    found = results.difference([31.0, 42.0, 53.0], [30.0, 40.0, 50.0])
    assert found.mean == pytest.approx(2.0)
    assert found.deviation == pytest.approx(1.0)
    assert found.supported  # 2 > 2 * 1 / sqrt(3)
    assert not results.difference([31.0, 40.1, 50.1], [30.0, 40.0, 50.0]).supported  # one seed carries it
    assert not results.difference([33.0, 43.0, 49.9], [30.0, 40.0, 50.0]).supported  # signs differ
    lone = results.difference([31.0], [30.0])
    assert lone.mean == 1.0 and math.isnan(lone.deviation) and not lone.supported


def test_pairs_of_unequal_length_are_an_error():
    with pytest.raises(ValueError):
        results.difference([1.0, 2.0], [1.0])


def test_the_saved_loss_compares_drops_and_not_scores():
    baseline = [run("baseline", 1, 0.40, 0.30, 0.20, 0.10)]
    ours = [run("ours", 1, 0.38, 0.33, 0.30, 0.24)]
    assert results.saved_loss(ours, baseline, results.CORRUPTED) == pytest.approx(50.0)  # 5 of 10 points
    assert results.saved_loss(ours, baseline, results.WEAK_ATTACK) == pytest.approx(60.0)  # 8 of 20
    assert results.saved_loss(ours, baseline, results.ATTACK) == pytest.approx(100 * (1 - 14 / 30))


def test_a_goal_asks_for_all_that_it_names():
    saved = {results.CORRUPTED: 20.0, results.WEAK_ATTACK: 20.0, results.ATTACK: 60.0}
    assert results.goals_met(-0.5, saved) == ["default", "robust"]
    assert results.goals_met(-0.6, saved) == results.goals_met(-3.0, saved) == ["robust"]
    assert results.goals_met(-3.1, saved) == []
    assert results.goals_met(0.0, {**saved, results.ATTACK: 59.9}) == ["default"]
    assert results.goals_met(0.0, {results.WEAK_ATTACK: 90.0}) == []


def test_the_selection_goes_by_the_mean_of_four():
    assert run("ours", 1, 0.4, 0.3, 0.2, 0.1).mean_of_four() == pytest.approx(25.0)


def test_the_curve_is_interpolated_and_never_extrapolated():
    curve = [(30.0, 20.0), (40.0, 22.0), (20.0, 10.0)]
    assert results.at_equal_clean_score(25.0, curve) == pytest.approx(15.0)
    assert results.at_equal_clean_score(40.0, curve) == pytest.approx(22.0)
    assert results.at_equal_clean_score(41.0, curve) is None
    assert results.at_equal_clean_score(19.0, curve) is None


def test_what_is_collected_is_read_back(tmp_path, capsys):
    cell = tmp_path / "cell"
    (cell / "seen").mkdir(parents=True)
    (cell / "all_results.json").write_text(json.dumps({"eval_mean_iou": 0.5, "lipschitz": None}))
    row = {"kind": "attack", "condition": "pgd-linf-1", "mean_iou": 0.25}
    report = {"rows": [row], "corruption_summary": [], "reliability": []}
    (cell / "seen" / "results.json").write_text(json.dumps(report))
    done = {"status": "done"}
    entry = {
        **{"name": "cell", "folder": "cell", "status": "done", "variation": "adversarial_1", "task": "segmentation"},
        **{"variant": "baseline", "strategy": None, "scope": None, "lambda_lip": None, "seed": 3},
        "steps": {"train": {**done, "command": "finetune-seg"}, "seen": {**done, "command": "robustness"}},
    }
    plain = {**entry, "variation": None}
    constrained = {**plain, "variant": "lipschitz", "scope": "certified", "strategy": "orthogonal"}
    waiting = {**entry, "name": "other", "status": "pending"}
    (tmp_path / "matrix.json").write_text(json.dumps([entry, plain, constrained, waiting]))
    (tmp_path / "out.json").write_text(json.dumps(collect.collect(tmp_path)))
    assert "other" in capsys.readouterr().out
    found, *unnamed = results.read_runs(tmp_path / "out.json")
    assert [run.arm for run in unnamed] == ["baseline", "certified_orthogonal"]
    assert (found.arm, found.seed) == ("adversarial_1", 3)
    assert found.score(results.ATTACK) == 25.0
    assert found.score("", "train", "mean_iou") == 50.0


def test_no_drive_of_training_is_in_the_unseen_set_and_no_frame_in_two(tmp_path):
    names = [f"0016E5_{i:05d}.png" for i in range(5)] + [f"0001TP_{i:05d}.png" for i in range(4)]
    names += [f"0006R0_f{i:05d}.png" for i in range(30)]
    validation = [f"0016E5_{i:05d}.png" for i in range(90, 93)]
    for folders, files in ((("train", "trainannot"), names), (("val", "valannot"), validation)):
        for folder in folders:
            (tmp_path / folder).mkdir()
            for name in files:
                (tmp_path / folder / name).touch()
    parts = {part: [image.name for image, _ in pairs] for part, pairs in split_camvid.split(tmp_path).items()}
    assert len(parts["train"]) == 5 + 9 and len(parts["validation"]) == 3 + 20 and len(parts["unseen"]) == 4
    assert not set(parts["train"]) & set(parts["validation"])
    assert {name[:6] for name in parts["train"]} == {"0016E5", "0006R0"}
    assert {name[:6] for name in parts["unseen"]} == {"0001TP"}
    assert "0006R0_f00009.png" not in parts["train"] + parts["validation"]  # it looks like both its neighbours


def stage(means: dict[str, float], spread: float = 0.01) -> list:
    return [
        run(arm, seed, mean + spread * (seed - 1.5), mean / 2, mean / 3, mean / 4)
        for arm, mean in means.items()
        for seed in (1, 2)
    ]


def test_a_stage_agrees_within_its_spread_and_differs_beyond_it():
    committed = stage({"baseline": 0.5, "arm": 0.6})
    assert all(one.agrees and one.again == one.committed for one in check.compare(committed, committed))
    # Seeds a point apart: a deviation of 0.71, so that the smallest of one point counts, and three points are allowed.
    near, far = (list(check.compare(committed, stage({"baseline": 0.5, "arm": 0.6 + off}))) for off in (0.029, 0.031))
    assert [one.allowed for one in near] == pytest.approx([3.0] * 8)
    assert all(one.agrees for one in near)
    assert [(one.arm, one.condition) for one in far if not one.agrees] == [("arm", "clean")]
    wide = list(check.compare(stage({"arm": 0.5}, spread=0.04), stage({"arm": 0.5})))
    assert wide[0].condition == "clean" and wide[0].allowed == pytest.approx(3 * 4 / math.sqrt(2))


def test_a_stage_that_lacks_a_seed_is_not_compared():
    committed = stage({"baseline": 0.5, "arm": 0.6})
    with pytest.raises(SystemExit, match=r"arm: seeds \[1, 2\] are committed, and \[1\] were run again"):
        list(check.compare(committed, committed[:-1]))
