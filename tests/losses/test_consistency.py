"""The divergence of two predictions, against float64 by hand."""

import math

import numpy as np
import pytest
import torch

from lrsegformer.losses import consistency_loss
from lrsegformer.losses.consistency import weights_of_cells


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def by_hand(clean, perturbed, labels, weights=None):
    """Pixel by pixel in plain numpy: each valid pixel with the logits of the cell that it lies in."""
    total, count = 0.0, 0.0
    for image in range(len(labels)):
        height, width = labels.shape[1:]
        for row in range(height):
            for column in range(width):
                label = int(labels[image, row, column])
                if label == 255 or label < 0:
                    continue
                cell = (row * clean.shape[2] // height, column * clean.shape[3] // width)
                p, q = (softmax(each[image, :, cell[0], cell[1]].numpy()) for each in (clean, perturbed))
                weight = 1.0 if weights is None else weights[label]
                total += weight * float((p * np.log(p / q)).sum())
                count += weight
    return total / count


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return tuple(3 * torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.fixture
def labels():
    labels = torch.randint(0, 4, (2, 13, 18), generator=torch.Generator().manual_seed(1))
    labels[0, :9], labels[1, 3, 4] = 255, -100
    return labels.int()


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0]])
def test_segmentation(logits, labels, weights):
    found = consistency_loss(*logits, labels, class_weights=weights)
    assert found.dtype == torch.float64 and found.item() == pytest.approx(by_hand(*logits, labels, weights), rel=1e-12)
    half = consistency_loss(*(each.bfloat16() for each in logits), labels, class_weights=weights)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(found.item(), rel=0.05)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0]])
def test_classification(weights):
    generator = torch.Generator().manual_seed(2)
    clean, perturbed = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 1, 0])
    maps = (clean[:, :, None, None], perturbed[:, :, None, None], labels[:, None, None])
    found = consistency_loss(clean, perturbed, labels, class_weights=weights).item()
    assert found == pytest.approx(by_hand(*maps, weights), rel=1e-12)


def test_a_single_label_is_that_of_two_classes():
    clean, perturbed = torch.tensor([[[[0.3]]]]), torch.tensor([[[[-1.2]]]])
    p, q = (1 / (1 + math.exp(-value)) for value in (0.3, -1.2))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    found = consistency_loss(clean, perturbed, torch.zeros(1, 2, 2, dtype=torch.uint8))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_both(logits, labels):
    leaves = [each.clone().requires_grad_() for each in logits]
    assert torch.autograd.gradcheck(lambda *both: consistency_loss(*both, labels), leaves)


def test_equal_predictions_and_void_labels_give_nothing(logits, labels):
    clean = logits[0].clone().requires_grad_()
    same = consistency_loss(clean, clean.detach(), labels)
    assert same.item() == 0 and consistency_loss(*logits, labels) > 0
    void = consistency_loss(clean, logits[1], torch.full_like(labels, 255))
    void.backward()
    assert void.item() == 0 and not clean.grad.any()


def test_cells_hold_their_pixels():
    weights = torch.rand(2, 13, 18, dtype=torch.float64)
    cells = weights_of_cells(weights, (3, 5))
    assert cells.sum().item() == pytest.approx(weights.sum().item(), rel=1e-12)
    assert cells[1, 2, 4].item() == pytest.approx(weights[1, 9:, 15:].sum().item(), rel=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weights_of_cells(weights, (3, 5)), cells)
