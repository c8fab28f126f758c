"""The sizes of Mix Transformers, for training from scratch."""

from typing import Any

# Xie et al. 2021, "SegFormer" (arXiv 2105.15203), table 6; `tiny` is ours, for the quickstart and tests.
_HIDDEN = (64, 128, 320, 512)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny": {
        "depths": (1, 1, 1, 1),
        "hidden_sizes": (32, 64, 96, 128),
        "num_attention_heads": (1, 2, 3, 4),
        "decoder_hidden_size": 64,
        "drop_path_rate": 0.0,
        "initializer_range": 0.1,
    },
    "b0": {"depths": (2, 2, 2, 2), "hidden_sizes": (32, 64, 160, 256), "decoder_hidden_size": 256},
    "b1": {"depths": (2, 2, 2, 2), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 256},
    "b2": {"depths": (3, 4, 6, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
    "b3": {"depths": (3, 4, 18, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
    "b4": {"depths": (3, 8, 27, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
    "b5": {"depths": (3, 6, 40, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
}
