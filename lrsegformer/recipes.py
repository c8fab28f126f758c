"""Defaults of the fine-tuning commands beyond those of the options themselves: of a task, of a scope, and by name."""

from collections.abc import Callable, Container, Mapping
from typing import Any

from lrsegformer.choices import NO_STRATEGY, SCOPES, TASKS, Task
from lrsegformer.errors import InputError

DEFAULT_RECIPE = "default"
_CERTIFIED = SCOPES[-1]

# The defaults of a task where they differ from those of `TrainingDefaults`; reasons in docs/recipes.md.
TASK_DEFAULTS: dict[Task, dict[str, Any]] = {
    "segmentation": {"total_batch_size": 16},
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

# The defaults under a scope, for either task: a certified network starts from scratch, or nearly so, and its
# orthonormal matrices do not decay.
SCOPE_DEFAULTS: dict[str, dict[str, Any]] = {
    _CERTIFIED: {
        "learning_rate": 5e-3,
        "head_learning_rate_multiplier": 1.0,
        "weight_decay": 0.0,
        "warmup_steps": 0.05,
        "max_grad_norm": 0.0,
    },
}

# `--recipe`: what each sets, by task; the scope's defaults come with the scope.
RECIPES: dict[str, dict[Task, dict[str, Any]]] = {
    DEFAULT_RECIPE: {"segmentation": {}, "classification": {}},
    "robust": {
        # docs/study.md, "Goals": what it saves under attack, and what it costs under other light.
        "segmentation": {
            "strategy": "jacobian_norm",
            "lipschitz_options": '{"jacobian": "network"}',
            "lambda_lip": 0.1,
        },
        # docs/benchmarks.md, "Robust training at equal time".
        "classification": {"adversarial_steps": 1, "adversarial_eps": 1.0},
    },
    "certified": {
        "segmentation": {"strategy": "orthogonal", "scope": _CERTIFIED},
        "classification": {"strategy": "orthogonal", "scope": _CERTIFIED},
    },
}

# Values of options with which a recipe would not be what its name says.
_CONTRADICTIONS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "robust": {
        "strategy": lambda strategy: strategy != "jacobian_norm",
        "lambda_lip": lambda weight: weight == 0,
        "adversarial_steps": lambda steps: steps == 0,
    },
    "certified": {"strategy": lambda strategy: strategy == NO_STRATEGY, "scope": lambda scope: scope != _CERTIFIED},
}


def recipe_options(task: Task, recipe: str, scope: str | None = None) -> dict[str, Any]:
    """
    What a recipe sets, the defaults of its scope among it.

    Args:
        recipe (`str`): one of `RECIPES`; one that is unknown sets nothing, and the command line refuses it.
        scope (`str`, *optional*): that of the model; the recipe's own by default.
    """
    own = RECIPES.get(recipe, {}).get(task, {})
    return {**SCOPE_DEFAULTS.get(scope or own.get("scope", ""), {}), **own}


def fill_in(task: Task, values: dict[str, Any], given: Container[str]) -> None:
    """
    Give the options that a user has not given what the recipe and the scope say, in place.

    Args:
        values (`dict`): every option's value, `recipe` among them.
        given (`Container[str]`): names of the options that the user has given, which stay.

    Raises:
        [`~lrsegformer.errors.InputError`]: one of them contradicts the recipe.
    """
    recipe = values["recipe"]
    own = RECIPES[recipe][task]
    for name, contradicts in _CONTRADICTIONS.get(recipe, {}).items():
        if name in own and name in given and contradicts(values[name]):
            raise InputError(
                f"--recipe {recipe} has --{name} {_figure(own[name])}, which --{name} {_figure(values[name])} "
                "contradicts: leave one of the two out."
            )
    for name, value in recipe_options(task, recipe, own.get("scope", values["scope"])).items():
        if name not in given:
            values[name] = value


def recipe_in_words(task: Task, recipe: str, values: Mapping[str, Any]) -> str:
    """A recipe's name and what it set in a run, with what was given in place of some of it; for log and card."""
    options = recipe_options(task, recipe)
    kept = [f"{name} {_figure(value)}" for name, value in options.items() if values[name] == value]
    other = [
        f"{name} {_figure(values[name])} instead of {_figure(value)}"
        for name, value in options.items()
        if values[name] != value
    ]
    words = ", ".join(kept) or "nothing beyond the defaults"
    return f"{recipe}: {words}{'; given by itself: ' if other else ''}{', '.join(other)}"


def recipes_help() -> str:
    """What each recipe sets, for `--help`."""
    return " ".join(f"'{recipe}': {_options_in_words(recipe)}." for recipe in RECIPES)


def _options_in_words(recipe: str) -> str:
    by_task = {task: recipe_options(task, recipe) for task in TASKS}
    words = {
        task: " ".join(f"--{name} {_figure(value)}" for name, value in options.items()) or "the defaults"
        for task, options in by_task.items()
    }
    if len(set(words.values())) == 1:
        return words[TASKS[0]]
    return "; ".join(f"{text} ({task})" for task, text in words.items())


def _figure(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
