"""What targeted attacks aim at."""

import torch

from lrsegformer.attacks.targets import target_labels


def test_targets_are_other_classes_and_void_stays():
    labels = torch.full((30, 4, 4), 2)
    labels[:, 0] = 255
    labels[:, 1, 0] = -100
    targets = target_labels(labels, list(range(30)), 5, seed=0)
    counted = (labels != 255) & (labels >= 0)
    assert torch.equal(targets[~counted], labels[~counted])
    assert set(targets[counted].tolist()) == {0, 1, 3, 4}
    assert all(len(set(one[mask].tolist())) == 1 for one, mask in zip(targets, counted, strict=True))
    assert torch.equal(target_labels(labels[7:8], [7], 5, seed=0)[0], targets[7])
    classes = target_labels(torch.arange(300), list(range(300)), 1000, seed=0)
    assert (classes != torch.arange(300)).all() and len(set(classes.tolist())) > 200
