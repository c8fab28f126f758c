"""The defaults of a task where they differ from those of `TrainingDefaults`, which are segmentation's."""

from typing import Any

# Reasons in docs/recipes.md.
RECIPES: dict[str, dict[str, Any]] = {
    "segmentation": {},
    "classification": {
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "total_batch_size": 128,
        "num_train_epochs": 10.0,
        "warmup_steps": 0.05,
        "max_grad_norm": 1.0,
        "per_device_eval_batch_size": 64,
    },
}
