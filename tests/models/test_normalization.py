"""BatchNorm under a constraint: the stock function in eval mode, and no way to undo the constraint in training."""

import pytest
import torch
from torch import nn

from lrsegformer import STRATEGIES
from lrsegformer.models.normalization import CenteringBatchNorm2d

LIMITED = [name for name in STRATEGIES if STRATEGIES[name].limits_norm]


@pytest.fixture
def norms() -> tuple[nn.BatchNorm2d, CenteringBatchNorm2d]:
    """A stock norm with a life behind it, and ours with the same tensors."""
    torch.manual_seed(2)
    stock = nn.BatchNorm2d(6)
    with torch.no_grad():
        for tensor in (stock.weight, stock.bias, stock.running_mean):
            tensor.normal_()
        stock.running_var.uniform_(0.1, 3)
    ours = CenteringBatchNorm2d(6)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours


def scaled(convolved: torch.Tensor, norm: CenteringBatchNorm2d) -> torch.Tensor:
    """What the convolution before the norm yields when its rows carry the norm's scale."""
    return convolved * norm.row_scale()[:, None, None]


def test_eval_mode_is_batch_norm(norms):
    stock, ours = (norm.eval() for norm in norms)
    convolved = torch.randn(2, 6, 5, 7) * 3 + 1
    torch.testing.assert_close(ours(scaled(convolved, ours)), stock(convolved), rtol=1e-5, atol=1e-5)


def test_training_centres_and_freezes_the_variance(norms):
    stock, ours = (norm.train() for norm in norms)
    convolved = torch.randn(4, 6, 5, 7) * 3 + 1
    variance = ours.running_var.clone()
    outputs = ours(scaled(convolved, ours))
    stock(convolved)
    torch.testing.assert_close(outputs.mean(dim=(0, 2, 3)), ours.bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        outputs.std(dim=(0, 2, 3)), (convolved.std(dim=(0, 2, 3)) * ours.row_scale()).abs(), rtol=1e-4, atol=0
    )
    assert torch.equal(ours.running_var, variance) and not torch.allclose(stock.running_var, variance)
    # In the units of stock BatchNorm, so that a file means the same to both.
    torch.testing.assert_close(ours.running_mean, stock.running_mean, rtol=1e-4, atol=1e-5)
    assert ours.num_batches_tracked == stock.num_batches_tracked == 1


def test_training_and_eval_agree_once_the_mean_has_settled(norms):
    _, ours = norms
    convolved = scaled(torch.randn(4, 6, 5, 7) + 2, ours).detach()
    for _ in range(200):
        trained = ours.train()(convolved)
    torch.testing.assert_close(ours.eval()(convolved), trained, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gamma", [0.0, -0.0, 1e-20, -2.0])
@pytest.mark.parametrize("training", [False, True])
def test_any_scale_is_finite_with_finite_gradients(gamma, training):
    norm = CenteringBatchNorm2d(3).train(training)
    nn.init.constant_(norm.weight, gamma)
    convolved = torch.randn(2, 3, 4, 4, requires_grad=True)
    norm(convolved * norm.row_scale()[:, None, None]).square().sum().backward()
    for tensor in (norm.weight.grad, norm.bias.grad, convolved.grad, *norm.buffers()):
        assert torch.isfinite(tensor).all()
    assert (norm.row_scale().abs() > 0).all() and (norm.row_scale().sign()[0] == torch.tensor(gamma).sign()) | (
        abs(gamma) < 1e-12
    )


def test_half_precision_inputs_keep_their_dtype(norms):
    for norm in norms[1:]:
        for mode in (True, False):
            assert norm.train(mode)(torch.randn(2, 6, 3, 3).bfloat16()).dtype == torch.bfloat16


def shrink_before_the_norm(model) -> None:
    """Shrink projections and fuse convolution, as a falling constant does."""
    with torch.no_grad():
        for projection in model.decode_head.linear_projections:
            projection.proj.weight.mul_(0.1)
            projection.proj.bias.mul_(0.1)
        model.decode_head.linear_fuse.weight.mul_(0.5)


def relative_change(model, images) -> float:
    with torch.no_grad():
        before = model.train()(images).logits
        shrink_before_the_norm(model)
        return ((model(images).logits - before).abs().max() / before.abs().max()).item()


@pytest.mark.parametrize("strategy", [None, "jacobian_norm"])
def test_stock_batch_norm_undoes_shrinking(make_model, images, strategy):
    """The trap: with BatchNorm in training mode the maps before it can shrink at unchanged logits."""
    model = make_model(strategy, "projections")
    # Far above the norm's epsilon, as features of a trained model are.
    nn.init.normal_(model.decode_head.linear_fuse.weight, std=100.0)
    assert relative_change(model, images) < 1e-3


@pytest.mark.parametrize("scope", ["projections", "head"])
def test_falling_penalty_leaves_the_logits_alone_only_under_scope_projections(make_model, images, scope):
    """Constants at a tenth: a stock norm hides it from the logits, the centring one does not."""
    model = make_model("geometric_mean", scope).train()
    nn.init.normal_(model.decode_head.linear_fuse.weight, std=100.0)
    if scope == "head":
        model.decode_head.linear_fuse.start_from_weight(model.decode_head.fuse_row_scale())
    with torch.no_grad():
        before = model(images)
        for projection in model.decode_head.linear_projections:
            projection.proj.c.sub_(torch.log(torch.tensor(10.0)))
            projection.proj.bias.mul_(0.1)
        after = model(images)
    change = (after.logits - before.logits).abs().max() / before.logits.abs().max()
    # The projections are one factor of the penalty; fuse convolution and classifier are the others.
    expected = 10 ** (-1 if scope == "projections" else -1 / 3)
    assert (after.lipschitz_penalty / before.lipschitz_penalty).item() == pytest.approx(expected, rel=1e-4)
    assert change < 1e-3 if scope == "projections" else change > 0.5


@pytest.mark.parametrize("strategy", ["stable_softplus", "geometric_mean", "jacobian_norm"])
def test_scope_head_cannot_be_undone(make_model, images, strategy):
    assert relative_change(make_model(strategy, "head"), images) > 0.05


@pytest.mark.parametrize("strategy", ["stable_softplus", "geometric_mean"])
def test_a_falling_constant_of_the_fuse_layer_shrinks_the_spread_of_the_logits(make_model, images, strategy):
    model = make_model(strategy, "head").train()
    with torch.no_grad():
        before = model(images).logits.std(dim=(0, 2, 3))
        model.decode_head.linear_fuse.c.fill_(-6.0)
        after = model(images).logits.std(dim=(0, 2, 3))
    assert (after < 0.2 * before).all()


@pytest.mark.parametrize("strategy", LIMITED)
def test_scale_of_the_norm_cannot_exceed_the_fuse_constant(make_model, strategy):
    """gamma and a tiny running variance multiply the raw weight inside the constraint."""
    head = make_model(strategy, "head").decode_head
    bound = head.linear_fuse.lipschitz_bound(head.fuse_row_scale()).item()
    with torch.no_grad():
        head.batch_norm.weight.fill_(1e3)
        head.batch_norm.running_var.fill_(1e-4)
    effective = head.linear_fuse.effective_weight(head.fuse_row_scale()).double()
    order = {"l2": 2, "linf": float("inf"), "l1": 1}[head.linear_fuse.norm]
    assert torch.linalg.matrix_norm(effective, ord=order) <= bound
    assert head.linear_fuse.lipschitz_bound(head.fuse_row_scale()).item() == bound


def restart_constants(head) -> None:
    """Each constant at the norm of its raw weight, the norm's scale included: where nothing is constrained."""
    for projection in head.linear_projections:
        projection.proj.start_from_weight()
    head.linear_fuse.start_from_weight(head.fuse_row_scale())
    head.classifier.start_from_weight()


@torch.no_grad()
def rescale(head, what: str, factor: float) -> None:
    """Multiply one map and divide the next, so that eval mode yields the same logits."""
    norm = head.batch_norm
    if what.endswith("projections"):
        count = 1 if what == "one of the projections" else len(head.linear_projections)
        # The fuse convolution takes the coarsest scale, the last projection, first.
        for projection in head.linear_projections[-count:]:
            projection.proj.weight.mul_(factor)
            projection.proj.bias.mul_(factor)
        head.linear_fuse.weight[:, : count * len(norm.weight)].div_(factor)
    elif what == "gamma":
        norm.weight.mul_(factor)
        head.linear_fuse.weight.div_(factor)
        norm.running_mean.div_(factor)
    elif what == "variance":
        norm.running_var.copy_((norm.running_var + norm.eps) / factor**2 - norm.eps)
        head.linear_fuse.weight.div_(factor)
        norm.running_mean.div_(factor)
    elif what == "classifier":
        # The ReLU between them is positively homogeneous.
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)
        head.classifier.weight.div_(factor)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("factor", [0.05, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("what", ["projections", "gamma", "variance", "classifier"])
@pytest.mark.parametrize("strategy", ["stable_softplus", "geometric_mean"])
def test_no_rescaling_lowers_the_penalty_at_unchanged_logits(make_model, images, labels, strategy, what, factor):
    model = make_model(strategy, "head")
    restart_constants(model.decode_head)
    with torch.no_grad():
        before = model(images, labels=labels)
        rescale(model.decode_head, what, factor)
        restart_constants(model.decode_head)
        after = model(images, labels=labels)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-3, atol=1e-3)
    assert after.lipschitz_penalty >= before.lipschitz_penalty * (1 - 1e-4)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("strategy", ["stable_softplus", "geometric_mean"])
def test_rescaling_one_projection_cannot_run_away(make_model, images, labels, strategy, factor):
    """
    Blocks of different size can be balanced at unchanged logits, which lowers the penalty a little, and no further: a
    projection that shrinks counts with its fourth root, the growth of its fuse block in full; one that grows gains the
    fuse convolution no more than that block.
    """
    model = make_model(strategy, "head")
    restart_constants(model.decode_head)
    with torch.no_grad():
        before = model(images, labels=labels)
        rescale(model.decode_head, "one of the projections", factor)
        restart_constants(model.decode_head)
        after = model(images, labels=labels)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-3, atol=1e-3)
    assert after.lipschitz_penalty > before.lipschitz_penalty
