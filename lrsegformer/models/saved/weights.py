"""Whether the files of weights in a folder are whole, and hold numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lrsegformer.errors import reason_of

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
# The length of the header stands in front of it, in 8 bytes; headers are at most 100 MB long (safetensors' format).
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000
Shapes = Mapping[str, tuple[int, ...]]


def fault_of_weights(folder: Path) -> str | None:
    """
    What is wrong with the weights of a saved model, as a clause that goes on from the folder's name (`"has no
    model.safetensors"`), or `None`.

    Looks at one file, at the shards that an index names, or at peft's adapters; a pickle is not taken.
    """
    if (folder / WEIGHTS_FILE).exists():
        return fault_of_safetensors(folder / WEIGHTS_FILE)
    if (folder / INDEX_FILE).exists():
        return _fault_of_shards(folder)
    if (folder / ADAPTER_WEIGHTS_FILE).exists():
        return fault_of_safetensors(folder / ADAPTER_WEIGHTS_FILE)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    pickles = [name for name in pickles if name.startswith(("pytorch_model", "model"))]
    if pickles:
        return f"has no {WEIGHTS_FILE} but {pickles[0]}, a pickle, which is not opened as it can run code"
    return f"has no {WEIGHTS_FILE}"


def fault_of_safetensors(file: Path) -> str | None:
    """The same of a single file: cut short, empty, of another format, or with a tensor that holds NaN or infinity."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            if size == 0:
                return f"has an empty {file.name}"
            if not 2 <= length <= _LONGEST_HEADER:
                return f"has a {file.name} that is no file of safetensors"
            header = opened.read(length)
        if len(header) < length:
            return f"has a {file.name} that is cut short"
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
    except OSError as error:
        return f"has a {file.name} that cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return f"has a {file.name} that is no file of safetensors"
    if not tensors:
        return f"has a {file.name} without a tensor"
    whole = _LENGTH_BYTES + length + max(ends)
    if size != whole:
        return f"has a {file.name} that is cut short ({size} of {whole} bytes)"
    return _fault_of_values(file)


def shapes_of(folder: Path) -> Shapes:
    """Of all tensors in the files of safetensors that a folder has, without reading the tensors; none of pickles."""
    files = [folder / WEIGHTS_FILE] if (folder / WEIGHTS_FILE).exists() else _shards(folder)
    shapes = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    return shapes


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; `None` where none does. Whole numbers are finite."""
    return next((name for name, tensor in tensors if not _is_finite(tensor)), None)


def _fault_of_values(file: Path) -> str | None:
    """One pass over the tensors, one at a time, so that no more than the largest is held."""
    try:
        with safe_open(file, framework="pt") as opened:
            wrong = first_not_finite((name, opened.get_tensor(name)) for name in opened.keys())
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        return f"has a {file.name} that cannot be read ({reason_of(error)})"
    return None if wrong is None else f"has a {file.name} with values that are not finite (in {wrong})"


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # Sums of 8-bit floats are not implemented, and all of their values fit into the wider kind.
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    return bool(wide.isfinite().all())


def _fault_of_shards(folder: Path) -> str | None:
    try:
        files = _shards(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"has a {INDEX_FILE} that cannot be read"
    for file in files:
        if not file.exists():
            return f"has no {file.name}, which its {INDEX_FILE} names"
        if fault := fault_of_safetensors(file):
            return fault
    return None if files else f"has a {INDEX_FILE} that names no file"


def _shards(folder: Path) -> list[Path]:
    shards = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
    return [folder / Path(name).name for name in sorted(shards)]
