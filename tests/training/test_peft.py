"""Adapters of peft through the Trainer: both tasks, every strategy, from the first log line to a loaded adapter."""

import pytest
import torch

from lrsegformer import STRATEGIES
from tests.selection import one_of_each

peft = pytest.importorskip("peft")

TASKS = ["segmentation", "classification"]
CASES = [(task, strategy, "head") for task in TASKS for strategy in (None, *STRATEGIES)]
RESUMED = [case for case in CASES if case[1] in (None, "stable_softplus", "orthogonal")]
HEADS = {"segmentation": ["decode_head"], "classification": ["classifier"]}


@pytest.fixture
def make_adapted(make_model):
    """A model whose encoder has low-rank adapters and whose head is trained whole."""

    def make(task: str, strategy: str | None):
        model = make_model(task, strategy)
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=HEADS[task])
        return peft.get_peft_model(model, config)

    return make


@pytest.fixture
def make_peft_trainer(make_trainer, make_adapted, tmp_path):
    def make(task: str, strategy: str | None, name: str = "run", **options):
        model = make_adapted(task, strategy)
        folder = str(tmp_path / name)
        return make_trainer(task=task, model=model, output_dir=folder, learning_rate=1e-2, **options)

    return make


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", one_of_each(CASES), ids=lambda case: "-".join(map(str, case)))
def test_logs_and_scores_of_a_run_with_an_adapter(make_peft_trainer, case):
    task, strategy, _ = case
    trainer = make_peft_trainer(task, strategy, eval_strategy="steps", eval_steps=1)
    before = trainer.model.lipschitz_report()
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log and "loss_task" in log]
    assert len(logs) == 2
    # The names that the log of a model without an adapter has.
    names = [row["name"].removeprefix("decode_head.") for row in before["layers"]]
    logged = {name for name in logs[0] if name.startswith("lipschitz/")}
    assert logged == {f"lipschitz/{name}" for name in (*names, "head") if names}
    after = trainer.model.lipschitz_report()
    for name, row in zip(names, after["layers"], strict=True):
        assert logs[-1][f"lipschitz/{name}"] == pytest.approx(row["bound"])
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_task"] + log["loss_lipschitz"], rel=1e-5)
    scores = trainer.evaluate()
    assert scores["eval_loss"] == pytest.approx(scores["eval_loss_task"] + scores["eval_loss_lipschitz"], rel=1e-5)
    if strategy is not None and STRATEGIES[strategy].learns_constant:
        penalty = trainer.model.train()(torch.zeros(2, 3, 32, 32)).lipschitz_penalty
        assert scores["eval_loss_lipschitz"] == pytest.approx(trainer.args.lambda_lip * penalty.item(), rel=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", one_of_each(RESUMED), ids=lambda case: "-".join(map(str, case)))
def test_a_resumed_run_ends_where_the_whole_one_does(make_peft_trainer, make_model, tmp_path, case):
    task, strategy, _ = case
    whole = make_peft_trainer(task, strategy, "whole", save_strategy="steps", save_steps=1)
    whole.train()
    resumed = make_peft_trainer(task, strategy, "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert resumed.state.global_step == 2
    expected = {name: each for name, each in whole.model.named_parameters() if each.requires_grad}
    found = dict(resumed.model.named_parameters())
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each, rtol=1e-5, atol=1e-6, msg=name)

    whole.save_model(str(tmp_path / "adapter"))
    loaded = peft.PeftModel.from_pretrained(make_model(task, strategy), tmp_path / "adapter").eval()
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(pixels).logits, whole.model.eval()(pixels).logits)
    assert loaded.lipschitz_report() == whole.model.lipschitz_report()
