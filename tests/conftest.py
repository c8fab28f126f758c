"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, by LRSEGFORMER_DATA (default `../shared/data`); skips where there is none."""
    root = Path(__file__).resolve().parents[1]
    folder = (root / os.environ.get("LRSEGFORMER_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set LRSEGFORMER_DATA")
    return folder
