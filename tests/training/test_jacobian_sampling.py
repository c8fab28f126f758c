"""The share of the images that the penalty on the network's Jacobian is measured on."""

import pytest
import torch

from lrsegformer.errors import InputError
from lrsegformer.training.jacobian_sampling import JacobianSampling, jacobian_sampling

NETWORK = {"jacobian": "network"}
CPU = torch.device("cpu")


def alone(values, filling):
    return values


def batches_of(images, *sizes):
    return [{"pixel_values": part} for part in images.split(list(sizes))]


def drawn(share, images, step, *sizes, gather=alone):
    batches = JacobianSampling(share, gather).add_to(batches_of(images, *sizes), step, CPU)
    return tuple(torch.cat([batch[f"jacobian_{name}"] for batch in batches]) for name in ("seeds", "weights"))


@pytest.fixture
def images():
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_draw_does_not_depend_on_the_split_or_the_order(images):
    for step in range(4):
        seeds, weights = drawn(0.25, images, step, 8)
        assert (weights > 0).sum() == 2 and weights.sum() == 8
        for sizes in ((2, 2, 2, 2), (1, 7), (5, 3)):
            found = drawn(0.25, images, step, *sizes)
            assert torch.equal(found[0], seeds) and torch.equal(found[1], weights)
        backwards = drawn(0.25, images.flip(0), step, 4, 4)
        assert torch.equal(backwards[0].flip(0), seeds) and torch.equal(backwards[1].flip(0), weights)
    assert not torch.equal(drawn(0.25, images, 0, 8)[0], drawn(0.25, images, 1, 8)[0]), "a step has its directions"


def test_processes_with_uneven_batches_draw_together(images):
    """Each process sees what both have gathered, filled up to one length."""
    halves = images.split([5, 3])
    everywhere = {}
    for rank, half in enumerate(halves):
        sampling = JacobianSampling(0.25, lambda values, filling, rank=rank: everywhere.setdefault(rank, values))
        sampling.add_to(batches_of(half, len(half)), 3, CPU)

    def gather(values, filling):
        return torch.cat([everywhere[0], everywhere[1], torch.full((2,), filling)])

    parts = [drawn(0.25, half, 3, len(half), gather=gather) for half in halves]
    whole = drawn(0.25, images, 3, 8)
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize(("count", "share"), [(8, 0.25), (1, 0.25), (3, 0.5), (6, 0.3), (2, 1.0)])
def test_share_holds_and_every_image_counts_once_on_average(count, share):
    images = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    weights = torch.stack([drawn(share, images, step, count)[1] for step in range(1200)])
    chosen = (weights > 0).sum(dim=1)
    assert chosen.sum() == pytest.approx(1200 * count * share, abs=1)
    assert chosen.max() - chosen.min() <= 1
    error = ((1 / share - 1) / 1200) ** 0.5
    assert (weights.mean(dim=0) - 1).abs().max() <= 5 * error + 1e-6
    assert (weights.sum(dim=1).mean() - count).abs() < 0.01 * count


def test_one_image_is_drawn_every_fourth_step():
    image = torch.randn(1, 3, 4, 4)
    assert [drawn(0.25, image, step, 1)[1].item() for step in range(8)] == [0, 0, 0, 4, 0, 0, 0, 4]


def test_equal_images_share_one_weight(images):
    same = images[:1].expand(4, -1, -1, -1)
    assert drawn(0.5, same, 0, 4)[1].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_trainer_measures_a_share_of_each_step(make_trainer, make_model, task):
    model = make_model(task, "jacobian_norm", lipschitz_options=NETWORK)
    trainer = make_trainer(task, model=model, jacobian_share=0.5, per_device_train_batch_size=1, max_steps=3)
    seen = []
    forward = model.forward

    def watched(*args, jacobian_weights=None, **kwargs):
        if jacobian_weights is not None:
            seen.append(jacobian_weights.item())
        return forward(*args, jacobian_weights=jacobian_weights, **kwargs)

    model.forward = watched
    trainer.train()
    assert len(seen) == 12 and all(sum(seen[step : step + 4]) == 4 for step in (0, 4, 8))
    assert sorted(set(seen)) == [0, 2]
    assert all(log["loss_lipschitz"] > 0 for log in trainer.state.log_history if "loss" in log)
    assert trainer.evaluate()["eval_loss_lipschitz"] == 0


def test_share_of_a_model_without_that_penalty_is_refused(make_trainer, make_model):
    make_trainer(model=make_model("segmentation", "jacobian_norm", lipschitz_options=NETWORK))
    for strategy in (None, "stable_softplus", "jacobian_norm"):
        with pytest.raises(InputError, match="--jacobian_share 0.5 .*jacobian_norm"):
            make_trainer(strategy=strategy, jacobian_share=0.5)


def test_a_continued_run_draws_the_same(make_trainer, make_model, tmp_path):
    def run():
        model = make_model("segmentation", "jacobian_norm", lipschitz_options=NETWORK)
        steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        return make_trainer(model=model, lambda_lip=1.0, learning_rate=1e-3, jacobian_share=0.25, **steps)

    whole, continued = run(), run()
    whole.train()
    continued.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    logs = [
        [(log["loss"], log["loss_lipschitz"]) for log in trainer.state.log_history if "loss" in log]
        for trainer in (whole, continued)
    ]
    assert logs[0] == logs[1] and len({penalty for _, penalty in logs[0]}) == 4
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(continued.model.state_dict()[name], tensor), name


def test_sharded_models_are_refused(make_model):
    """A process whose images are not drawn has no forward pass, which the others would wait for."""
    model = make_model("segmentation", "jacobian_norm", lipschitz_options=NETWORK)
    with pytest.raises(InputError, match="needs a whole model on each device"):
        jacobian_sampling(model, None, alone, sharded=True)
    assert jacobian_sampling(make_model(), None, alone, sharded=True) is None
