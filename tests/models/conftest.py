"""Tiny models, ours and stock, with weights that leave nothing at its trivial initial value."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Two images whose sides are no multiples of 32, so that the scales do not divide each other."""
    return torch.randn(2, 3, 72, 100, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def labels() -> torch.Tensor:
    """Masks of the images with ignored pixels."""
    labels = torch.randint(0, 5, (2, 72, 100), generator=torch.Generator().manual_seed(6))
    labels[:, :10] = 255
    return labels


@pytest.fixture(scope="session")
def mit_folder(make_stock, tmp_path_factory):
    """A MiT backbone as the Hub has it: saved from the stock image classifier."""
    folder = tmp_path_factory.mktemp("mit")
    make_stock("classification").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def segformer_folder(make_stock, tmp_path_factory):
    """A stock SegFormer for segmentation as the Hub has it."""
    folder = tmp_path_factory.mktemp("segformer")
    make_stock("segmentation").save_pretrained(folder)
    return folder
