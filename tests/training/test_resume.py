"""What is saved comes back: resuming and the best model, bit for bit."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from lrsegformer import LRSegformerTrainer

# Of what is measured, not learned.
CLOCKS = ("runtime", "per_second", "flos")
CASES = [
    ("segmentation", "stable_softplus", 0),
    ("segmentation", None, 2),
    ("classification", "orthogonal", 0),
]


def tensors_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal_tensors(found, expected):
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different, f"{len(different)} of {len(expected)} tensors differ: {different[:5]}"


class Recording(LRSegformerTrainer):
    """Notes every training image that the model sees, in order."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training:
            for image in inputs["pixel_values"]:
                self.seen.append(hashlib.sha256(image.numpy().tobytes()).hexdigest())
        return super().compute_loss(model, inputs, *args, **kwargs)


class Tensors(TrainerCallback):
    """Copies the model's tensors when training begins, and at each checkpoint."""

    def __init__(self):
        self.at_begin, self.at_step = None, {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.at_begin = tensors_of(model)

    def on_save(self, args, state, control, model=None, **kwargs):
        self.at_step[state.global_step] = tensors_of(model)


@pytest.fixture
def train(make_trainer, make_model):
    """Six steps of 4 of 12 images, so two epochs; a checkpoint every second step."""

    def run(task, strategy, workers, seed=0, checkpoint=None, **options):
        copies = Tensors()
        trainer = make_trainer(
            task,
            model=make_model(task, strategy, seed=seed),
            trainer_class=Recording,
            callbacks=[copies],
            **{
                "max_steps": 6,
                "per_device_train_batch_size": 2,
                "save_strategy": "steps",
                "save_steps": 2,
                "save_total_limit": None,
                "eval_strategy": "steps",
                "eval_steps": 1,
                "learning_rate": 1e-3,
                "dataloader_num_workers": workers,
                **options,
            },
        )
        trainer.seen = []
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer, copies

    return run


def logs_after(trainer, step):
    return [
        {name: value for name, value in log.items() if not any(clock in name for clock in CLOCKS)}
        for log in trainer.state.log_history
        if log["step"] > step and "train_loss" not in log
    ]


@pytest.mark.parametrize(("task", "strategy", "workers"), CASES)
def test_a_resumed_run_is_the_uninterrupted_one(train, tmp_path, task, strategy, workers):
    whole, saved = train(task, strategy, workers)
    first_epoch, second_epoch = whole.seen[:12], whole.seen[12:]
    assert len(whole.seen) == 24 and len(set(first_epoch)) == 12
    assert not set(first_epoch) & set(second_epoch), "augmentation has to differ between epochs"

    # In the middle of an epoch, and in that of the last one.
    for step in (2, 4):
        resumed, copies = train(
            task, strategy, workers, seed=step, checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"),
            output_dir=str(tmp_path / f"resumed-{step}"),
        )  # fmt: skip
        assert_equal_tensors(copies.at_begin, saved.at_step[step])
        assert resumed.seen == whole.seen[4 * step :]
        assert logs_after(resumed, step) == logs_after(whole, step)
        assert_equal_tensors(tensors_of(resumed.model), tensors_of(whole.model))


def test_resuming_between_two_epochs(train, tmp_path):
    whole, _ = train("segmentation", "stable_softplus", 0, save_steps=3)
    resumed, _ = train(
        "segmentation", "stable_softplus", 0, seed=1, save_steps=3,
        checkpoint=str(tmp_path / "run" / "checkpoint-3"), output_dir=str(tmp_path / "resumed"),
    )  # fmt: skip
    assert resumed.seen == whole.seen[12:]
    assert logs_after(resumed, 3) == logs_after(whole, 3)
    assert_equal_tensors(tensors_of(resumed.model), tensors_of(whole.model))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("task", "strategy"), [case[:2] for case in CASES])
def test_the_best_model_comes_back(train, task, strategy):
    # The largest loss stands for the best, so that the last checkpoint is not it.
    trainer, saved = train(
        task, strategy, 0, max_steps=4, save_steps=1, eval_steps=1, learning_rate=0.3, warmup_steps=0,
        load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    best = trainer.state.best_global_step
    assert best < 4
    assert_equal_tensors(tensors_of(trainer.model), saved.at_step[best])
    losses = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    assert trainer.evaluate()["eval_loss"] == losses[best] == max(losses.values())


@pytest.mark.parametrize("lost", ["decode_head.classifier.c", "decode_head.classifier.weight"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(train, tmp_path, lost):
    train("segmentation", "stable_softplus", 0, max_steps=2)
    file = tmp_path / "run" / "checkpoint-2" / "model.safetensors"
    tensors = load_file(file)
    assert tensors.pop(lost) is not None
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing"):
        train("segmentation", "stable_softplus", 0, checkpoint=str(file.parent))
