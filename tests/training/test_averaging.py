"""`--average_weights`: the average is what is evaluated and saved, and training goes on from the raw weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from lrsegformer import LRSegformerTrainer
from lrsegformer.cli.finetune import main
from lrsegformer.errors import InputError
from lrsegformer.training.averaging import RAW_WEIGHTS_FILE
from lrsegformer.training.run.checkpoints import fault_of_checkpoint

CLOCKS = ("runtime", "per_second", "flos")
RUNNING = ("running_mean", "running_var")
CASES = [("segmentation", "stable_softplus"), ("segmentation", None), ("classification", "orthogonal")]
# Learning rates at which the raw weights of the last step are far from their average.
FAST = {"learning_rate": 1e-2, "warmup_steps": 0, "lr_scheduler_type": "constant"}
EACH_STEP = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}


class Raw(TrainerCallback):
    """Copies what the model holds when training begins, and where the next step does."""

    def __init__(self):
        self.states = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.states.append(state_of(model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.states.append(state_of(model))


def state_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def recursion(states, decay):
    """The average after the last of these states, in float64, from its definition in docs/recipes.md."""
    average = {name: tensor.double() for name, tensor in states[0].items()}
    for step, state in enumerate(states[1:], start=1):
        kept = min(decay, (1 + step) / (10 + step))
        average = {name: kept * average[name] + (1 - kept) * tensor.double() for name, tensor in state.items()}
    return average


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def plain_logs(trainer, after=0):
    return [
        {name: value for name, value in log.items() if not any(clock in name for clock in CLOCKS)}
        for log in trainer.state.log_history
        if log["step"] > after and "train_loss" not in log
    ]


@pytest.mark.one_in(2)
@pytest.mark.each_value
@pytest.mark.parametrize(("task", "strategy"), CASES)
@pytest.mark.parametrize("decay", [0.2, 0.99])
def test_the_model_is_the_average_of_the_raw_weights(make_trainer, task, strategy, decay):
    raw = Raw()
    trainer = make_trainer(task, strategy, callbacks=[raw], average_weights=decay, max_steps=4, **FAST)
    trainer.train()
    assert len(raw.states) == 5
    found, last = state_of(trainer.model), raw.states[-1]
    expected = recursion(raw.states, decay)
    averaged = {name for name, each in trainer.model.named_parameters() if each.requires_grad}
    averaged |= {name for name in found if name.endswith(RUNNING)}
    assert strategy != "stable_softplus" or any(name.endswith(".c") for name in averaged)
    moved = 0
    for name, tensor in found.items():
        if name in averaged:
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
            moved += bool((tensor - last[name]).abs().max() > 1e-4)
        else:
            assert torch.equal(tensor, last[name]), name
    assert moved > len(averaged) / 2, "the raw weights would pass as their average"


@pytest.mark.parametrize(("task", "strategy"), [CASES[0], pytest.param(*CASES[2], marks=pytest.mark.slow)])
def test_training_is_that_of_the_raw_weights(make_trainer, task, strategy):
    options = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, **EACH_STEP, **FAST}
    states, losses = [], []
    for decay in (None, 0.9):
        raw = Raw()
        trainer = make_trainer(task, strategy, callbacks=[raw], average_weights=decay, **options)
        trainer.train()
        states.append(raw.states)
        losses.append([(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == losses[1]
    for plain, averaged in zip(*states, strict=True):
        assert_equal(averaged, plain)


@pytest.mark.parametrize(("task", "strategy"), [CASES[0], pytest.param(*CASES[2], marks=pytest.mark.slow)])
def test_what_is_saved_is_what_was_scored(make_trainer, make_model, tmp_path, task, strategy):
    trainer = make_trainer(
        task, strategy, average_weights=0.9, max_steps=3, eval_strategy="steps", eval_steps=1, **EACH_STEP, **FAST
    )
    trainer.train()
    logs = {log["step"]: log for log in trainer.state.log_history if "eval_loss" in log}
    bounds = {log["step"]: log for log in trainer.state.log_history if "lipschitz/head" in log}
    for step in (1, 3):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        saved = type(trainer.model).from_pretrained(folder)
        other = make_trainer(task, model=saved, output_dir=str(tmp_path / f"again-{step}"))
        assert other.evaluate()["eval_loss"] == pytest.approx(logs[step]["eval_loss"], rel=1e-6)
        assert saved.lipschitz_report()["head"]["bound"] == pytest.approx(bounds[step]["lipschitz/head"], rel=1e-6)
        raw = load_file(folder / RAW_WEIGHTS_FILE)
        assert any(not torch.equal(raw[name], each) for name, each in saved.state_dict().items() if name in raw)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logs[3]["eval_loss"], rel=1e-6)
    trainer.save_model(str(tmp_path / "final"))
    assert_equal(load_file(tmp_path / "final" / "model.safetensors"), load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("task", "strategy"), [*(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[:2]), CASES[2]]
)
def test_a_resumed_run_is_the_uninterrupted_one(make_trainer, make_model, tmp_path, task, strategy):
    options = {"average_weights": 0.9, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, **EACH_STEP, **FAST}
    seen = Raw()
    whole = make_trainer(task, strategy, callbacks=[seen], **options)
    whole.train()
    raw, step = Raw(), 2
    resumed = make_trainer(
        task,
        model=make_model(task, strategy, seed=1),
        callbacks=[raw],
        output_dir=str(tmp_path / "resumed"),
        **options,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    for found, expected in zip(raw.states[1:], seen.states[step + 1 :], strict=True):
        assert_equal(found, expected)
    assert_equal(state_of(resumed.model), state_of(whole.model))
    assert plain_logs(resumed, step) == plain_logs(whole, step)
    for name in ("model.safetensors", RAW_WEIGHTS_FILE):
        assert_equal(*(load_file(tmp_path / run / "checkpoint-4" / name) for run in ("resumed", "run")))


def test_the_best_model_is_an_average(make_trainer, tmp_path):
    # At this rate the loss grows, so that the last checkpoint is not it.
    trainer = make_trainer(
        average_weights=0.5, max_steps=4, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=False, **EACH_STEP, **FAST,
    )  # fmt: skip
    trainer.train()
    best = trainer.state.best_global_step
    assert best < 4
    saved = type(trainer.model).from_pretrained(tmp_path / "run" / f"checkpoint-{best}")
    assert_equal(state_of(trainer.model), state_of(saved))
    losses = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    assert trainer.evaluate()["eval_loss"] == losses[best] == min(losses.values())


def test_training_twice_begins_an_average_of_its_own(make_trainer):
    trainer = make_trainer(average_weights=0.9, **FAST)
    trainer.train()
    raw = Raw()
    trainer.add_callback(raw)
    trainer.train()
    found = state_of(trainer.model)
    for name, tensor in recursion(raw.states, 0.9).items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name].double(), tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (0.9, None, "is of a run with --average_weights, and this run averages none"),
        (None, 0.9, "--average_weights 0.9: the checkpoint .* has no raw_weights.safetensors"),
        (0.9, 0.99, "--average_weights 0.99: the run of the checkpoint .* has 0.9: give the options of its run"),
    ],
)
def test_going_on_with_another_average_is_refused(make_trainer, tmp_path, first, second, message):
    make_trainer(average_weights=first, max_steps=1, **EACH_STEP).train()
    trainer = make_trainer(average_weights=second)
    with pytest.raises(InputError, match=message) as raised:
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert "\n" not in str(raised.value)


def test_damaged_raw_weights_are_refused(make_trainer, tmp_path):
    make_trainer(average_weights=0.9, max_steps=1, **EACH_STEP).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    assert fault_of_checkpoint(checkpoint) is None
    file = checkpoint / RAW_WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-1])
    assert "raw_weights.safetensors that is cut short" in fault_of_checkpoint(checkpoint)
    with pytest.raises(InputError, match="raw_weights.safetensors cannot be read"):
        make_trainer(average_weights=0.9).train(resume_from_checkpoint=str(checkpoint))


def test_weights_of_low_precision_are_refused(make_trainer, make_model):
    model = make_model(strategy=None).to(torch.bfloat16)
    with pytest.raises(InputError, match="--average_weights: .* is trained in bfloat16.*load the model in float32"):
        make_trainer(model=model, average_weights=0.9).train()


@pytest.mark.parametrize("sharding", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_sharded_models_are_refused(make_trainer, monkeypatch, sharding):
    # It is said while the Trainer is made, by an accelerator that needs several processes.
    make = LRSegformerTrainer.create_accelerator_and_postprocess

    def make_sharded(trainer):
        make(trainer)
        setattr(trainer, sharding, True)

    monkeypatch.setattr(LRSegformerTrainer, "create_accelerator_and_postprocess", make_sharded)
    with pytest.raises(InputError, match="--average_weights needs a whole model on each device"):
        make_trainer(average_weights=0.9)


def test_the_command_line_says_so(tmp_path, caplog):
    options = (
        "--dataset digits --architecture tiny --image_size 32 --use_cpu --max_train_samples 4 --max_eval_samples 2 "
        "--total_batch_size 4 --max_steps 2 --dataloader_num_workers 0 --average_weights 0.9"
    ).split()
    with caplog.at_level("INFO"):
        main("classification", [*options, "--output_dir", str(tmp_path / "run")])
    words = "exponential moving average with decay 0.9"
    assert any(words in line for line in caplog.messages)
    assert words in (tmp_path / "run" / "README.md").read_text()
    assert "average_weights: 0.9" in (tmp_path / "run" / "run.yaml").read_text()
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert sum("eval_loss" in log for log in history) >= 1
    assert not (tmp_path / "run" / RAW_WEIGHTS_FILE).exists(), "the finished run's model is the average"
