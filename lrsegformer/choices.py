"""What a command line offers by name, in one place. Light on purpose: option parsing imports it."""

from typing import Any, Literal, get_args

Task = Literal["segmentation", "classification"]
TASKS: tuple[Task, ...] = get_args(Task)

# Norms of perturbations: the largest change of a value; l2 over the whole image; the largest over pixels of the l2
# over a pixel's channels. Command lines and reports give the radii of those that speak of single pixels in 1/255.
NORMS = ("linf", "l2", "per_pixel_l2")
NORMS_IN_255THS = ("linf", "per_pixel_l2")
# Those in which certificates speak.
CERTIFICATE_NORMS = ("l2", "per_pixel_l2")
# For the many tests of a smoothed segmentation.
SMOOTHING_CORRECTIONS = ("holm", "bonferroni")

# How a segmentation model is applied to an image: evaluation/protocols.py.
PROTOCOLS = ("whole", "slide", "multi_scale_flip")

# What a model can be written as: export/.
EXPORT_FORMATS = ("stock", "onnx", "pt2")

# What `--strategy` calls the baseline; the strategies are those of the registry in layers/.
NO_STRATEGY = "none"
SCOPES = ("head", "projections", "network", "certified")
# Those that constrain layers of the encoder.
ENCODER_SCOPES = SCOPES[2:]
# As what a file of a scope can be read, too: the layers that are added start from the plain weights that it has.
WIDER_SCOPES = {"projections": ("head", "network"), "head": ("network",)}
# Whose Jacobian a strategy may penalise.
JACOBIANS = ("head", "network")
# Share of the images that a penalty on the network's Jacobian is measured on: docs/benchmarks.md.
JACOBIAN_SHARE = 0.125
# What adversarial training minimises: the task loss of perturbed images, or that of clean ones and the divergence.
ADVERSARIAL_LOSSES = ("cross_entropy", "trades")
TRADES_BETA = 6.0
# Kinds of attention under scope certified; the classes are those of models/encoder/attention.py.
CERTIFIED_ATTENTIONS = ("energy", "softmax")
# Layers of the encoder that adapters go on unless others are asked for: query and value, as in Hu et al. 2021, "LoRA"
# (arXiv 2106.09685).
LORA_TARGETS = ("q_proj", "v_proj")
# What the penalty is of.
PENALTIES = ("layers", "head", "network")
PENALTY_REDUCTIONS = ("geometric_mean", "product", "sum", "mean_log")

# Sizes of Mix Transformers, for training from scratch: Xie et al. 2021, "SegFormer" (arXiv 2105.15203), table 6;
# `tiny` is ours, for the quickstart and tests, and `small`, for certified networks on CPUs.
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
    "small": {
        "depths": (2, 2, 2, 2),
        "hidden_sizes": (32, 64, 160, 256),
        "mlp_ratios": (2, 2, 2, 2),
        "decoder_hidden_size": 128,
        "drop_path_rate": 0.0,
    },
    "b0": {"depths": (2, 2, 2, 2), "hidden_sizes": (32, 64, 160, 256), "decoder_hidden_size": 256},
    "b1": {"depths": (2, 2, 2, 2), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 256},
    "b2": {"depths": (3, 4, 6, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
    "b3": {"depths": (3, 4, 18, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
    "b4": {"depths": (3, 8, 27, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
    "b5": {"depths": (3, 6, 40, 3), "hidden_sizes": _HIDDEN, "decoder_hidden_size": 768},
}

# What the Trainer's processes say: the names of transformers.
LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")

# In 1/255 of the pixels' range, in l2.
CERTIFIED_RADIUS = 36.0
