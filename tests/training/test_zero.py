"""DeepSpeed's ZeRO, without DeepSpeed: what is refused, in one line, before anything is made."""

import json
from types import SimpleNamespace

import pytest

from lrsegformer import STRATEGIES, zero
from lrsegformer.cli.finetune import main
from lrsegformer.errors import InputError

OPTIONS = "--dataset digits --architecture tiny --use_cpu --image_size 32 --max_steps 1 --output_dir run".split()
CONFIGURATION = {"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": "auto"}


@pytest.fixture(params=["option", "launcher", "file of the launcher"])
def stage_three(request, tmp_path, monkeypatch) -> list[str]:
    """Options of a command that asks for stage 3, or none where the launcher does."""
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(CONFIGURATION), encoding="utf-8")
    if request.param == "option":
        return ["--deepspeed", str(file)]
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    if request.param == "launcher":
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    else:
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    return []


def refused(capsys, task: str, *options: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(task, [*OPTIONS, *options])
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


def test_a_constrained_model_is_refused(stage_three, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for strategy in STRATEGIES:
        line = refused(capsys, "segmentation", "--strategy", strategy, *stage_three)
        assert f"ZeRO stage 3 with a constrained model ({strategy})" in line and "zero2.yaml" in line
    assert "(orthogonal)" in refused(
        capsys, "classification", "--strategy", "orthogonal", "--scope", "certified", *stage_three
    )
    assert not (tmp_path / "run").exists()


def test_what_may_be_trained_needs_deepspeed(stage_three, tmp_path, monkeypatch, capsys):
    """A baseline under stage 3, and any model under stage 2: refused for the missing package alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: None)
    assert "pip install deepspeed" in refused(capsys, "segmentation", *stage_three)
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    assert "pip install deepspeed" in refused(capsys, "segmentation", "--strategy", "orthogonal")


@pytest.mark.parametrize(
    ("text", "said"),
    [("[", "zero.json"), ('{"zero_optimization": {"stage": "3"}}', "give 0, 1, 2 or 3"), (None, "cannot be read")],
)
def test_broken_configurations(tmp_path, monkeypatch, capsys, text, said):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "zero.json").write_text(text, encoding="utf-8")
    assert said in refused(capsys, "segmentation", "--deepspeed", "zero.json")


def test_the_trainer_refuses_it_by_the_plugin(make_trainer, make_model):
    """Whoever started it: by what transformers has made of the options."""
    trainer = make_trainer(model=make_model("classification", "orthogonal"), task="classification")
    trainer.args.deepspeed_plugin = SimpleNamespace(zero_stage=3)
    trainer.model_init = lambda: make_model("classification", "orthogonal")
    with pytest.raises(InputError, match="ZeRO stage 3"):
        trainer.call_model_init()
    trainer.model_init = lambda: make_model("classification", None)
    trainer.call_model_init()
    trainer.args.deepspeed_plugin.zero_stage = 2
    trainer.model_init = lambda: make_model("classification", "orthogonal")
    trainer.call_model_init()


def test_stages(monkeypatch):
    for name in (zero.LAUNCHED, zero.LAUNCHED_FILE, zero.LAUNCHED_STAGE):
        monkeypatch.delenv(name, raising=False)
    assert zero.asked_stage(None) is None
    assert zero.asked_stage(CONFIGURATION) == zero.asked_stage(json.dumps(CONFIGURATION)) == 3
    assert zero.asked_stage({"train_batch_size": 8}) == 0
    monkeypatch.setenv(zero.LAUNCHED, "true")
    assert zero.asked_stage(None) == zero.DEFAULT_STAGE
