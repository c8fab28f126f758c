"""Small models with known answers, and a classifier of real digits."""

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from lrsegformer.evaluation import predict_classes
from lrsegformer.losses import segmentation_loss


class Linear(nn.Module):
    """A classifier whose logits are linear in the pixels: optimal perturbations are known."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, images):
        return images.flatten(1) @ self.weight.T + self.bias


class PerPixelLinear(nn.Module):
    """A segmenter whose logits at a pixel are linear in that pixel's channels, at the resolution of the image."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, images):
        return functional.conv2d(images, self.weight[:, :, None, None], self.bias)


@pytest.fixture(scope="session")
def linear() -> Callable[[torch.Tensor, torch.Tensor], nn.Module]:
    return lambda weight, bias: Linear(weight, bias).eval()


@pytest.fixture(scope="session")
def per_pixel_linear():
    return PerPixelLinear


@pytest.fixture(scope="session")
def digits_classifier() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network trained for a second on 1500 digits, and the other 297 `(297, 1, 8, 8)` with their labels."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(model(images[:1500]), labels[:1500]).backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    held_out, targets = images[1500:], labels[1500:]
    assert (model(held_out).argmax(1) == targets).double().mean() > 0.85
    return model, held_out, targets


class Segmenter(nn.Sequential):
    """Logits at a quarter of the resolution, as SegFormer's."""

    num_labels = 4

    @torch.no_grad()
    def predict(self, images, size):
        return predict_classes(self(images), tuple(size))


def draw_scenes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy pictures of 8 x 8 coloured squares, each colour a class; the uppermost rows are void."""
    generator = torch.Generator().manual_seed(seed)
    squares = torch.randint(4, (count, 4, 4), generator=generator)
    labels = squares.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    colours = torch.tensor([[0.3, 0.5, 0.6], [0.6, 0.4, 0.5], [0.5, 0.6, 0.3], [0.45, 0.45, 0.45]])
    images = colours[labels].permute(0, 3, 1, 2) + 0.12 * torch.randn(count, 3, 32, 32, generator=generator)
    labels[:, :3] = 255
    return images.clamp(0, 1), labels


@pytest.fixture(scope="session")
def scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve scenes that [`segmenter`] was not trained on, `(12, 3, 32, 32)`, and their labels."""
    return draw_scenes(12, seed=2)


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """A small convolutional network trained for seconds on other scenes."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 24, 5, stride=4, padding=2), nn.Conv2d(24, 4, 1)
    model = Segmenter(first, nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), last)
    images, labels = draw_scenes(64, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        segmentation_loss(model(images), labels).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)
