"""Runs of one group differ in the seed alone, and the models of reports are found among the runs."""

import shutil

from lrsegformer.reporting.groups import arenas_of
from lrsegformer.reporting.reading.collection import collect


def groups_of(*folders):
    (arena,) = arenas_of(collect(folders))
    return arena.groups


def test_seeds_of_the_same_options_are_one_group(world):
    groups = groups_of(world / "runs")
    assert [(group.letter, group.label, len(group.members), group.seeds) for group in groups] == [
        ("A", "baseline", 2, "1, 2"),
        ("B", "orthogonal", 2, "1, 2"),
    ]


def test_what_differs_tells_groups_of_a_strategy_apart(tmp_path, write_run):
    for seed, lambda_lip in ((1, 0.1), (2, 0.1), (1, 0.5)):
        write_run(tmp_path / "runs" / f"{lambda_lip}-{seed}", "geometric_mean", seed, 0.5, lambda_lip=lambda_lip)
    labels = [(group.label, len(group.members)) for group in groups_of(tmp_path / "runs")]
    assert labels == [("geometric_mean, lambda_lip 0.1", 2), ("geometric_mean, lambda_lip 0.5", 1)]


def test_options_that_train_nothing_else_do_not_part_runs(tmp_path, write_run):
    for seed, workers in ((1, 0), (2, 4)):
        name = f"run-{seed}"
        write_run(tmp_path / "runs" / name, "orthogonal", seed, 0.5, dataloader_num_workers=workers, run_name=name)
    assert len(groups_of(tmp_path / "runs")) == 1


def test_data_sets_are_arenas_of_their_own(tmp_path, write_run):
    import json

    for dataset in ("digits", "others"):
        folder = write_run(tmp_path / "runs" / dataset, "orthogonal", 1, 0.5)
        results = json.loads((folder / "all_results.json").read_text())
        (folder / "all_results.json").write_text(json.dumps({**results, "dataset": dataset}))
    arenas = arenas_of(collect([tmp_path / "runs"]))
    assert [(arena.dataset, len(arena.groups)) for arena in arenas] == [("digits", 1), ("others", 1)]


def test_models_of_reports_are_the_runs(world):
    (arena,) = arenas_of(collect([world / "runs", world / "reports"]))
    assert len(arena.groups) == 2
    for report in arena.reports:
        for label in report.labels:
            assert arena.member_of(report, label).run.name == label


def test_they_are_found_where_both_have_moved(world, tmp_path):
    shutil.copytree(world, tmp_path / "elsewhere")
    (arena,) = arenas_of(collect([tmp_path / "elsewhere"]))
    assert len(arena.groups) == 2 and all(member.run for group in arena.groups for member in group.members)


def test_a_model_that_is_no_run_stands_by_itself(world):
    groups = groups_of(world / "reports")
    assert [(group.label, group.run) for group in groups] == [
        (name, None) for name in ("orthogonal-<b>1", "orthogonal-<b>2", "baseline-<b>1", "baseline-<b>2")
    ]
