"""What the speed benchmark compares: stock SegFormer and ours with the same weights, on the same inputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from equality import OURS, STOCK, Action, Outcome
from torch import nn
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from lrsegformer import LRSegformerConfig, LRSegformerForSemanticSegmentation
from lrsegformer.choices import ARCHITECTURES
from lrsegformer.evaluation.prediction import predict_classes
from lrsegformer.losses import segmentation_loss

CLASSES, SIDE, IGNORE_INDEX = 150, 512, 255
IGNORED_SHARE = 0.05
PENALTY_WEIGHT = 0.1
WEIGHT_NOISE = 0.02  # of the size of the initial weights, so that zero biases and unit scales take part in the check


@dataclass(frozen=True)
class Setup:
    """Where and how the models run: float32 or autocast to bfloat16, eager or compiled."""

    device: str = "cpu"
    bfloat16: bool = False
    compiled: bool = False

    def precision(self) -> AbstractContextManager:
        return torch.autocast(self.device, dtype=torch.bfloat16) if self.bfloat16 else nullcontext()

    def prepared(self, function: Callable) -> Callable:
        return torch.compile(function, fullgraph=True, dynamic=False) if self.compiled else function


@dataclass
class Workload:
    """
    Stock SegFormer, ours with its weights, and one batch; its methods make the actions that are measured.

    Attributes:
        architecture (`str`): a key of `ARCHITECTURES`.
        batch (`int`), side (`int`): number of images and their sides in pixels.
        training (`bool`): else both are in eval mode, ours merged.
        models: by name, `"stock"` and `"ours"` (the baseline, without a strategy); strategies join by [`add`].
    """

    architecture: str
    batch: int
    side: int = SIDE
    training: bool = True
    setup: Setup = field(default_factory=Setup)
    models: dict[str, SegformerForSemanticSegmentation] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        sizes = {**ARCHITECTURES[self.architecture], "num_labels": CLASSES}
        stock = SegformerForSemanticSegmentation(SegformerConfig(**sizes))
        _move_weights(stock)
        ours = LRSegformerForSemanticSegmentation(LRSegformerConfig(**sizes))
        ours.load_state_dict(stock.state_dict())
        self.models = {STOCK: stock.to(self.setup.device), OURS: ours.to(self.setup.device)}
        for model in self.models.values():
            model.train(self.training)
        if not self.training:
            ours.merge()
        shape = (self.batch, self.side, self.side)
        labels = torch.randint(0, CLASSES, shape)
        labels[torch.rand(shape) < IGNORED_SHARE] = IGNORE_INDEX
        self.labels = labels.to(self.setup.device)
        self.images = torch.randn(self.batch, 3, self.side, self.side).to(self.setup.device)
        for name in self.models:
            self.features(name)  # In its first call transformers installs hooks, which torch cannot compile whole.

    def add(self, name: str, strategy: str, options: dict[str, str] | None = None, scope: str = "head") -> None:
        """Add ours with a strategy, freshly initialised; what a step costs does not hang on the weights."""
        config = LRSegformerConfig(
            **ARCHITECTURES[self.architecture],
            num_labels=CLASSES,
            lipschitz_strategy=strategy,
            lipschitz_scope=scope,
            lipschitz_options=options,
        )
        model = LRSegformerForSemanticSegmentation(config).to(self.setup.device)
        self.models[name] = model.train(self.training)

    def step(self, name: str) -> Action:
        """A training step without the optimizer: forward with labels, penalty where there is one, backward."""
        model = self.models[name]
        forward = self.setup.prepared(model)
        parameters = list(model.parameters())

        def action() -> Outcome:
            self.clear_gradients()
            torch.manual_seed(0)
            with self.setup.precision():
                outputs = forward(pixel_values=self.images, labels=self.labels)
            penalty = outputs.get("lipschitz_penalty")
            loss = outputs.loss if penalty is None else outputs.loss + PENALTY_WEIGHT * penalty
            loss.backward()
            return Outcome([loss.detach(), outputs.logits.detach()], [parameter.grad for parameter in parameters])

        return action

    def clear_gradients(self) -> None:
        for model in self.models.values():
            model.zero_grad(set_to_none=True)

    def encoder(self, name: str) -> Action:
        """Forward and backward of the encoder alone: the part of a step that nothing here makes faster."""
        encoder = self.models[name].segformer
        upstream = [torch.randn_like(feature) for feature in self.features(name)]

        def action() -> Outcome:
            encoder.zero_grad(set_to_none=True)
            torch.manual_seed(0)
            with self.setup.precision():
                features = encoder(self.images, output_hidden_states=True, return_dict=True).hidden_states
            torch.autograd.backward(features, upstream)
            return Outcome([feature.detach() for feature in features], [])

        return action

    @torch.no_grad()
    def features(self, name: str) -> Sequence[torch.Tensor]:
        """The encoder's outputs, finest first."""
        torch.manual_seed(0)
        with self.setup.precision():
            return self.models[name].segformer(self.images, output_hidden_states=True, return_dict=True).hidden_states

    def head(self, name: str) -> Action:
        """The decode head alone: forward and, in training, backward to its weights and to the features."""
        head = self.models[name].decode_head
        forward = self.setup.prepared(head)
        # Both heads are given the same features.
        features = [feature.requires_grad_(self.training) for feature in self.features(STOCK)]
        upstream = torch.randn(self.batch, CLASSES, *features[0].shape[2:], device=self.setup.device)
        leaves = [*features, *head.parameters()]

        def action() -> Outcome:
            torch.manual_seed(0)
            with torch.set_grad_enabled(self.training), self.setup.precision():
                logits = forward(features)
            gradients = torch.autograd.grad(logits, leaves, upstream.to(logits.dtype)) if self.training else []
            return Outcome([logits.detach()], list(gradients))

        return action

    def logits(self, name: str) -> Action:
        """Inference from images to logits at a quarter of their size."""
        forward = self.setup.prepared(self.models[name])

        def action() -> Outcome:
            with torch.no_grad(), self.setup.precision():
                return Outcome([forward(pixel_values=self.images).logits], [])

        return action

    def classes(self, name: str) -> Action:
        """Inference from images to the classes of their pixels."""
        size, logits = (self.side, self.side), self.logits(name)

        def action() -> Outcome:
            (low_resolution,) = logits().outputs
            if name == STOCK:
                with torch.no_grad():
                    upsampled = functional.interpolate(low_resolution, size, mode="bilinear", align_corners=False)
                    return Outcome([upsampled.argmax(1)], [])
            return Outcome([predict_classes(low_resolution, size)], [])

        return action

    @contextmanager
    def without_head_dropout(self) -> Iterator[None]:
        """The two heads lay their maps out differently in memory, so equal seeds drop different entries."""
        dropouts: list[nn.Dropout] = [model.decode_head.dropout for model in self.models.values()]
        rates = [dropout.p for dropout in dropouts]
        try:
            for dropout in dropouts:
                dropout.p = 0.0
            yield
        finally:
            for dropout, rate in zip(dropouts, rates, strict=True):
                dropout.p = rate


def loss_actions(batch: int, side: int = SIDE, setup: Setup | None = None) -> dict[str, Action]:
    """Forward and backward of the loss at full size, from logits at a quarter of it."""
    setup = setup or Setup()
    torch.manual_seed(0)
    labels = torch.randint(0, CLASSES, (batch, side, side), device=setup.device)
    labels[torch.rand(labels.shape, device=setup.device) < IGNORED_SHARE] = IGNORE_INDEX
    dtype = torch.bfloat16 if setup.bfloat16 else torch.float32
    shape = (batch, CLASSES, side // 4, side // 4)
    logits = torch.randn(shape, device=setup.device).to(dtype).requires_grad_()

    def stock_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        upsampled = functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        # Autocast takes cross entropy in float32.
        return functional.cross_entropy(upsampled.float(), labels, ignore_index=IGNORE_INDEX)

    def action_of(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Action:
        prepared = setup.prepared(function)

        def action() -> Outcome:
            loss = prepared(logits, labels)
            return Outcome([loss.detach()], list(torch.autograd.grad(loss, logits)))

        return action

    return {OURS: action_of(segmentation_loss), STOCK: action_of(stock_loss)}


@torch.no_grad()
def _move_weights(model: nn.Module) -> None:
    """Move every tensor off its initial value: biases off 0, scales and running variances off 1."""
    for parameter in model.parameters():
        parameter.add_(WEIGHT_NOISE * torch.randn_like(parameter))
    norm = model.decode_head.batch_norm
    norm.running_mean.normal_(std=WEIGHT_NOISE)
    norm.running_var.uniform_(0.5, 1.5)
