"""Which model a result is of: SHA-256 of the files that its answers follow from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

# What an image becomes and what the model makes of it: every file of sharded weights, and those of adapters.
_DECISIVE = ("*config.json", "*.safetensors", "*.safetensors.index.json")


def file_digests(folder: str | os.PathLike) -> dict[str, str]:
    """
    SHA-256, in hexadecimal digits, of the weights, the configuration and the image processor of a saved model.

    That of a weights file is the one which the Hub shows beside it. Empty for what is no folder, such as a Hub id.
    """
    folder = Path(folder)
    paths = sorted({path for pattern in _DECISIVE for path in folder.glob(pattern)}) if folder.is_dir() else []
    return {path.name: _digest(path) for path in paths}


def joint_digest(digests: Mapping[str, str]) -> str:
    """One SHA-256 for all of [`file_digests`]."""
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
