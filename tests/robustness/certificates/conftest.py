"""A stand-in for a certified segmenter, whose constants are known exactly."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from lrsegformer import LRSegformerConfig
from lrsegformer.certification.calculus import constants
from lrsegformer.evaluation import predict_classes
from lrsegformer.evaluation.prediction import largest_class


class StandIn(nn.Module):
    """
    Means over 2 x 2 pixels, an orthonormal map of their channels, and classes of digits; for pixels in [0, 1].

    A mean over 2 x 2 pixels moves by at most half the l2 length of a perturbation, and by at most its largest pixel;
    both are reached. Of images the mean over all pixels stands for them.
    """

    WIDTH = 8

    def __init__(self, task="segmentation", scale=1.0, claimed=1.0):
        super().__init__()
        self.task, self.scale, self.claimed = task, scale, claimed
        self.num_labels = 11 if task == "segmentation" else 10
        generator = torch.Generator().manual_seed(0)
        maps, _ = torch.linalg.qr(torch.randn(self.WIDTH, 3, generator=generator, dtype=torch.float64))
        self.maps = maps.float()
        self.rows = torch.randn(self.num_labels, self.WIDTH, generator=generator)
        # Most pixels of the built-in data are background, the first class.
        self.bias = 0.3 * torch.randn(self.num_labels, generator=generator) + 1.5 * (
            torch.arange(self.num_labels) == 0
        )
        self.config = LRSegformerConfig(num_labels=self.num_labels)
        self.config.lipschitz_scope, self.config.lipschitz_strategy = "certified", "orthogonal"
        self.std = torch.tensor(self.config.pixel_std())[:, None, None]

    @property
    def model(self):
        """What certificates ask; the rest of this class is what attacks ask."""
        return self

    def network_constants(self, height, width):
        pixels = height * width
        side = 2.0 if self.task == "segmentation" else pixels**0.5
        found = constants(1 / side, 1.0, pixels_in=pixels, pixels_out=int(pixels / side**2), l2_to_per_pixel=1 / side)
        return found.scaled(self.scale * self.claimed).widened(1e-6)

    def classifier_rows(self):
        return self.rows.double()

    def forward(self, images):
        side = 2 if self.task == "segmentation" else images.shape[-1]
        pooled = functional.avg_pool2d(images, side)
        features = self.scale * torch.einsum("oc,nchw->nohw", self.maps, pooled)
        logits = torch.einsum("ko,nohw->nkhw", self.rows, features) + self.bias[:, None, None]
        return logits if self.task == "segmentation" else logits[..., 0, 0]

    @torch.no_grad()
    def predict(self, images, size=None):
        logits = self(images)
        return largest_class(logits) if size is None else predict_classes(logits, size)


@pytest.fixture(scope="session")
def stand_in():
    return StandIn


@pytest.fixture
def prepared_stand_in(monkeypatch):
    """`prepared_stand_in(model)`: the run certifies this model, whatever checkpoints it is given."""
    from lrsegformer.robustness.bench.bench import PreparedModel
    from lrsegformer.robustness.certificates import run

    def prepare(model):
        def prepared(checkpoint, processor):
            return PreparedModel(checkpoint.label, model, f"{id(model):016x}"[:16], "64x64", None)

        monkeypatch.setattr(run, "prepare_model", prepared)
        return SimpleNamespace(run=run)

    return prepare
