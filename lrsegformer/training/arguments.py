"""Options of the command lines that need neither torch nor transformers, so that `--help` answers at once."""

from dataclasses import dataclass, field

from lrsegformer.choices import (
    ADVERSARIAL_LOSSES,
    ARCHITECTURES,
    CERTIFIED_ATTENTIONS,
    ENCODER_SCOPES,
    LOG_LEVELS,
    LORA_TARGETS,
    NO_STRATEGY,
    PENALTIES,
    PENALTY_REDUCTIONS,
    SCOPES,
    TRADES_BETA,
)
from lrsegformer.errors import InputError
from lrsegformer.layers.registry import STRATEGIES
from lrsegformer.ranges import COUNT, check_ranges
from lrsegformer.recipes import DEFAULT_RECIPE, RECIPES, recipes_help


def _strategy_help() -> str:
    text = f"Lipschitz strategy of the head, or '{NO_STRATEGY}' for the baseline. {STRATEGIES.summaries()}."
    return text.replace("%", "%%")


@dataclass
class ModelArguments:
    """Which model is fine-tuned, and how its head is constrained."""

    _argument_group_name = "model"

    recipe: str = field(
        default=DEFAULT_RECIPE,
        metadata={
            "help": f"A set of options by name; each that is given by itself wins. {recipes_help()}",
            "choices": tuple(RECIPES),
        },
    )
    model_name_or_path: str = field(
        default="nvidia/mit-b0",
        metadata={
            "help": "SegFormer checkpoint to start from: a Hub id or a folder (MiT backbone, SegFormer, or ours)."
        },
    )
    model_revision: str | None = field(default=None, metadata={"help": "Revision of the Hub checkpoint."})
    architecture: str | None = field(
        default=None,
        metadata={
            "help": "Train from scratch with this architecture instead of starting from a checkpoint.",
            "choices": tuple(ARCHITECTURES),
        },
    )
    strategy: str = field(
        default=NO_STRATEGY,
        metadata={"help": _strategy_help(), "choices": (NO_STRATEGY, *STRATEGIES)},
    )
    scope: str = field(
        default="head",
        metadata={
            "help": "What is constrained: 'head' (every linear map of the head and its BatchNorm), 'projections' "
            "(the decode head's four projections; bounds nothing but them), 'network' (the head and every linear map "
            "and convolution of the encoder; bounds each of them and the head, not the way from the pixels) or "
            "'certified' (all of a network whose Lipschitz constant from the pixels to the logits is proven).",
            "choices": SCOPES,
        },
    )
    certified_attention: str = field(
        default="energy",
        metadata={
            "help": "Scope certified: 'energy' (a step down an energy of distances between tokens) or 'softmax' "
            "(dot-product attention among clipped tokens).",
            "choices": CERTIFIED_ATTENTIONS,
        },
    )
    patch_stride: int | None = field(
        default=None,
        metadata={
            "help": "Scope certified, without a checkpoint of its kind: side of the blocks of pixels that become the "
            "first tokens. Default: 4; 8 takes a quarter of the time."
        },
    )
    position_grid: str | None = field(
        default=None,
        metadata={
            "help": "Scope certified: rows,columns of learned vectors laid over the image, for scenes of one kind "
            "trained with --whole_images: 12,16."
        },
    )
    penalty_of: str = field(
        default="layers",
        metadata={
            "help": "What the penalty is of: 'layers' (their learned constants), 'head' (the bound of the whole head) "
            "or 'network' (the logarithm of the bound from the pixels on, of a scope that has one).",
            "choices": PENALTIES,
        },
    )
    penalty_reduction: str = field(
        default="geometric_mean",
        metadata={
            "help": "How the learned constants become the penalty of the layers.",
            "choices": PENALTY_REDUCTIONS,
        },
    )
    lipschitz_options: str | None = field(
        default=None, metadata={"help": 'Options of the strategy as JSON, such as \'{"norm": "l1"}\'.'}
    )
    class_weights: str | None = field(
        default=None,
        metadata={
            "help": "Weight of each class in the loss: 'balanced' (from the training labels, n / (K n_c)), numbers "
            "with commas between them in the order of the classes, or JSON (a list, or a mapping from class names), "
            "also in a file."
        },
    )
    lora_r: int | None = field(
        default=None,
        metadata={
            "help": "Train adapters of this rank on the encoder (LoRA; needs the extra 'peft') and the head whole, "
            "instead of all weights. Not where the scope constrains the encoder."
        },
    )
    lora_alpha: int | None = field(
        default=None, metadata={"help": "Adapters are multiplied by this over their rank. Default: twice --lora_r."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapters."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: list(LORA_TARGETS),
        metadata={"help": "The encoder's linear layers that get one, by the end of their names, or all-linear."},
    )

    def __post_init__(self) -> None:
        check_ranges(self, {"patch_stride": COUNT})
        if self.lora_r is None:
            changed = self.lora_alpha is not None or self.lora_dropout or self.lora_target_modules != [*LORA_TARGETS]
            if changed:
                raise InputError("--lora_alpha, --lora_dropout and --lora_target_modules need --lora_r: give a rank.")
            return
        if self.lora_r < 1 or (self.lora_alpha is not None and self.lora_alpha < 1):
            raise InputError(f"--lora_r {self.lora_r}, --lora_alpha {self.lora_alpha}: give 1 or more.")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"--lora_dropout {self.lora_dropout}: give a share from 0 to below 1.")
        if self.architecture is not None:
            raise InputError(
                f"--lora_r with --architecture {self.architecture}: adapters leave the encoder's weights as they are, "
                "and these are random; start from a checkpoint by --model_name_or_path, or leave --lora_r out."
            )
        if self.strategy != NO_STRATEGY and self.scope in ENCODER_SCOPES:
            raise InputError(
                f"--lora_r with --scope {self.scope}: the encoder's layers are constrained, and an adapter beside one "
                "lies outside its constraint, so that the bound would not hold; use --scope head or projections, or "
                "leave --lora_r out."
            )


@dataclass
class TrainingDefaults:
    """
    What training has beyond `transformers.TrainingArguments`, and the published SegFormer recipe as defaults of the
    rest.

    Fractions below 1 for `warmup_steps`, `eval_steps`, `save_steps` and `logging_steps` are shares of the run's
    length.
    """

    _argument_group_name = "training"

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the run's outputs. Default: runs/<task>-<strategy>."}
    )
    lambda_lip: float = field(default=0.1, metadata={"help": "Weight of the Lipschitz penalty in the loss."})
    certified_radius: float | None = field(
        default=None,
        metadata={
            "help": "Scope certified: l2 radius, in 1/255 of the pixels' range, for which the loss asks each pixel's "
            "class a certificate. Default: 36 (0.14)."
        },
    )
    jacobian_share: float | None = field(
        default=None,
        metadata={
            "help": "Penalty on the network's Jacobian: share of the training images, drawn anew each step, that it "
            "is measured on. Default: 0.125."
        },
    )
    adversarial_steps: int = field(
        default=0,
        metadata={
            "help": "Adversarial training: steps of the attack on each training batch; 0 is off, 1 the cheap variant "
            "with a random start. Each costs a forward and a backward pass."
        },
    )
    adversarial_eps: float = field(
        default=0.0,
        metadata={"help": "Adversarial training: linf radius of the attack in 1/255 of the pixels' range."},
    )
    adversarial_loss: str = field(
        default="cross_entropy",
        metadata={
            "help": "Adversarial training: 'cross_entropy' (the task loss of the perturbed images in place of the "
            "clean ones) or 'trades' (the task loss of the clean images, and how far the predictions of the perturbed "
            "ones are from theirs; one pass more).",
            "choices": ADVERSARIAL_LOSSES,
        },
    )
    trades_beta: float = field(
        default=TRADES_BETA, metadata={"help": "Adversarial training by 'trades': weight of that divergence."}
    )
    learning_rate: float = field(
        default=6e-5, metadata={"help": "Base learning rate (the encoder's).", "aliases": ("--lr",)}
    )
    head_learning_rate_multiplier: float = field(
        default=10.0, metadata={"help": "The head's learning rate as a multiple of the base rate."}
    )
    constants_learning_rate: float = field(
        default=3e-2, metadata={"help": "Learning rate of the learned constants c, whatever that of the weights."}
    )
    average_weights: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate and save an exponential moving average of the weights with this decay a step, such as "
            "0.99; training goes on from the raw weights. Default: no average."
        },
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay; norms and the constants c have none."})
    total_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Samples an optimizer step, divided over devices and accumulation steps.",
            "aliases": ("--batch_size",),
        },
    )
    per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "Samples a device and forward pass. Default: what total_batch_size leaves."}
    )
    gradient_accumulation_steps: int | None = field(
        default=None, metadata={"help": "Forward passes an optimizer step. Default: what total_batch_size leaves."}
    )
    per_device_eval_batch_size: int = field(
        default=1, metadata={"help": "Samples a device at evaluation; above 1 the images must have one size."}
    )
    max_steps: int | None = field(
        default=None, metadata={"help": "Optimizer steps. Default: 160000, unless num_train_epochs is given."}
    )
    num_train_epochs: float | None = field(
        default=None,
        metadata={"help": "Passes over the training images, in place of max_steps.", "aliases": ("--epochs",)},
    )
    warmup_steps: float = field(
        default=1500 / 160000, metadata={"help": "Steps of linear warmup, or their share of the run."}
    )
    lr_scheduler_type: str = field(default="polynomial", metadata={"help": "Learning-rate schedule after the warmup."})
    lr_scheduler_kwargs: dict | str | None = field(
        default='{"power": 1.0, "lr_end": 0.0}', metadata={"help": "Options of the schedule, as JSON."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient norm to clip at; 0 does not clip."})
    bf16: bool | None = field(
        default=None,
        metadata={"help": "bfloat16 autocast. Default: where the GPU has it.", "nargs": "?", "const": True},
    )
    eval_strategy: str = field(default="steps", metadata={"help": "When to evaluate: no, steps or epoch."})
    eval_steps: float = field(default=0.1, metadata={"help": "Steps between evaluations, or their share of the run."})
    save_steps: float = field(default=0.1, metadata={"help": "Steps between checkpoints, or their share of the run."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    logging_steps: float = field(
        default=50,
        metadata={"help": "Steps between log lines, or their share of the run; a tenth of one of below 500 steps."},
    )
    log_level_replica: str = field(
        default="error",
        metadata={
            "help": "What other processes than the first may say: what they warn of, it says as well.",
            "choices": LOG_LEVELS,
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide NaN losses from the log, at the cost of a device sync a step."}
    )
    dataloader_num_workers: int | None = field(
        default=None, metadata={"help": "Worker processes a device. Default: up to 4, as many as there are cores."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave off: the data sets here yield what the model takes."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Continue a run: a checkpoint folder, or nothing for the last one in output_dir.",
            "nargs": "?",
            "const": "true",
        },
    )
    seed: int = field(default=42, metadata={"help": "Seed of initialisation, data order and augmentation."})
