"""From combinations to cells, with a command that stands in for the real one."""

import pytest

from lrsegformer.errors import InputError
from lrsegformer.matrix.definition import parse_definition
from lrsegformer.matrix.planning import Commands, Length, Verdict, describe_left_out, make_plan, without_option

LENGTH = Length(10, 0.0, "no", 0.0)


def words_of(options) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def judge(requests):
    """Refuses scope certified of stable_softplus, knows no option `wrong`, and penalises nothing in orthogonal."""
    verdicts = []
    for request in requests:
        if "wrong" in request.options:
            verdicts.append(Verdict([], error="no such option"))
        elif (request.options["strategy"], request.options.get("scope")) == ("stable_softplus", "certified"):
            verdicts.append(Verdict([], refusal="bounds in linf"))
        else:
            weighs = request.options["strategy"] not in ("orthogonal", "none")
            verdicts.append(Verdict(words_of(request.options), weighs=weighs, length=LENGTH))
    return verdicts


def plan(**content):
    commands = Commands(judge, lambda command, task, options: words_of(options))
    return make_plan(parse_definition({"tasks": ["segmentation"], "seeds": [0], **content}, "m.yaml"), commands)


def test_a_refused_combination_is_left_out_with_its_reason():
    found = plan(strategies=["stable_softplus", "geometric_mean"], scopes=["head", "certified"], lambdas=[1, 2])
    assert len(found.cells) == 6
    (line,) = describe_left_out(found)
    assert "segmentation-stable_softplus-certified-lambda1-seed0 and 1 more" in line and "bounds in linf" in line


def test_a_refused_cell_that_has_a_name_is_an_error():
    with pytest.raises(InputError, match=r"m\.yaml, cell segmentation-stable_softplus-certified.*x.*bounds in linf"):
        plan(cells={"x": {"strategy": "stable_softplus", "scope": "certified"}})


def test_where_everything_is_refused_the_reason_is_said():
    with pytest.raises(InputError, match="every combination is refused.*bounds in linf"):
        plan(scopes=["certified"])


def test_a_weight_of_nothing_makes_no_further_cells():
    found = plan(strategies=["orthogonal", "geometric_mean"], lambdas=[1, 2])
    assert [cell.name for cell in found.cells] == [
        "segmentation-orthogonal-head-seed0",
        "segmentation-geometric_mean-head-lambda1-seed0",
        "segmentation-geometric_mean-head-lambda2-seed0",
    ]
    assert found.cells[0].coordinates["lambda_lip"] is None and "--lambda_lip" not in found.cells[0].steps[0].words
    assert "same run" in describe_left_out(found)[0]


def test_two_runs_of_one_name_are_refused():
    with pytest.raises(InputError, match="both called segmentation-geometric_mean-head-lambda1-seed0"):
        plan(strategies=["geometric_mean"], lambdas=[1.0, 1.0000001])


def test_an_error_in_the_options_names_the_cell():
    with pytest.raises(InputError, match=r"m\.yaml, cell segmentation-baseline-x-seed0: no such option"):
        plan(variants=["baseline"], cells={"x": {"wrong": 1}})


def test_follow_ups_take_the_data_and_reach_the_cells_that_they_are_for():
    then = {
        "robustness": {"eps": 1},
        "sea": {"command": "robustness", "only": {"variant": "baseline"}, "max_eval_samples": 8},
    }
    common = {"dataset": "digits", "image_size": 64, "max_train_samples": 5, "max_eval_samples": 4, "max_steps": 9}
    found = plan(variants=["baseline", "lipschitz"], then=then, common=common)
    baseline, lipschitz = found.cells
    assert [step.name for step in lipschitz.steps] == ["train", "robustness"]
    assert [(step.name, step.command) for step in baseline.steps[1:]] == [
        ("robustness", "robustness"), ("sea", "robustness"),
    ]  # fmt: skip
    assert baseline.steps[1].words == tuple("--dataset digits --image_size 64 --eps 1".split())
    assert baseline.steps[2].words == tuple("--dataset digits --image_size 64 --max_eval_samples 8".split())


def test_the_side_of_training_crops_is_no_option_of_a_follow_up():
    found = plan(then={"robustness": {}}, common={"dataset": "a/folder", "image_size": 64, "eval_size": 32})
    assert found.cells[0].steps[1].words == ("--dataset", "a/folder")


@pytest.mark.parametrize(
    ("words", "left"),
    [("--a 1 --b 2", "--a 1"), ("--b 2 --a 1", "--a 1"), ("--a 1 --b=-2", "--a 1"), ("--a 1", "--a 1")],
)
def test_without_option(words, left):
    assert without_option(words.split(), "b") == left.split()
