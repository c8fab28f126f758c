"""What both models share of their constrained heads: which layers, how they start, what is penalised and reported."""

from collections.abc import Callable, Mapping
from statistics import geometric_mean
from typing import Any, NamedTuple

import torch

from lrsegformer.certification.head import HeadParts, head_bound
from lrsegformer.certification.parts import Constrained
from lrsegformer.certification.report import build_report
from lrsegformer.kernels.precision import without_autocast
from lrsegformer.layers.base import LipschitzConstraint
from lrsegformer.models.certified.network import CertifiedNetworkMixin
from lrsegformer.models.certified.report import REPORTED_SIZE
from lrsegformer.models.constrained_layers import ConstrainedLayersMixin
from lrsegformer.models.encoder.attention_estimate import attention_estimate
from lrsegformer.models.encoder.constrained import encoder_layers, encoder_penalty_factors
from lrsegformer.models.eval_mode import NONE, Statistics, copied_statistics, eval_mode
from lrsegformer.models.jacobian import difference_penalty, sample_seeds
from lrsegformer.models.penalty import constants_penalty


class JacobianSample(NamedTuple):
    """Seeds and weights of a batch's images for the penalty on a Jacobian; `None` for those of [`sample_seeds`], 1."""

    seeds: torch.Tensor | None = None
    weights: torch.Tensor | None = None


class LipschitzHeadMixin(CertifiedNetworkMixin, ConstrainedLayersMixin):
    """Penalty and report of the constrained layers, for either model."""

    # The forward pass normalises the loss over its own batch; the Trainer rescales it to the whole one.
    accepts_loss_kwargs = False
    # A stock file has no constants; they start from its weights, so their absence is no news.
    _keys_to_ignore_on_load_missing = [r"\.c$"]

    def penalty_factors(self) -> list[list[LipschitzConstraint]]:
        """The penalised layers in groups: those of a group lie side by side, the groups follow each other."""
        of_encoder = encoder_penalty_factors(self.segformer) if self.config.constrains_encoder else []
        return [*of_encoder, *self.head_penalty_factors()]

    def head_penalty_factors(self) -> list[list[LipschitzConstraint]]:
        """The constrained layers of the head, in groups as [`penalty_factors`] has them."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its head is made of.")

    def _penalty(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None,
        sample: JacobianSample,
        head_jacobian_penalty: Callable[..., torch.Tensor],
        *head_inputs: Any,
    ) -> torch.Tensor | None:
        """
        The penalty of this forward pass: in training mode, and in eval mode with labels, for the loss of an
        evaluation. Not at inference: pipelines take every output for one of the batch's samples. The Jacobian's is
        computed in training only.
        """
        if labels is None and not self.training:
            return None
        if self._penalized_jacobian() is None:
            return self._bounds_penalty()
        if not (self.training and torch.is_grad_enabled()):
            return None
        seeds = sample_seeds(pixel_values) if sample.seeds is None else sample.seeds
        # Running statistics lag behind weights that move: most ReLUs can be shut by them and open in training, and a
        # penalty that read them would come to just that (docs/layer_formulations.md).
        if not self.penalizes_network_jacobian():
            with copied_statistics(self, self._batch_statistics(*head_inputs)):
                return head_jacobian_penalty(seeds, *head_inputs)

        def logits(images: torch.Tensor) -> torch.Tensor:  # Not called where no image is drawn.
            return self._eval_mode_logits(images, self._batch_statistics(*head_inputs))

        with without_autocast(pixel_values.device.type):  # Differences of half-precision logits would be rounding.
            return difference_penalty(logits, pixel_values, seeds, sample.weights)

    def _bounds_penalty(self) -> torch.Tensor | None:
        """The penalty of what the configuration names: the layers' constants, or a bound of what they make up."""
        penalty_of = self.config.penalty_of if self.config.lipschitz_strategy else "layers"
        if penalty_of == "layers":
            return constants_penalty(self.penalty_factors(), self.config.penalty_reduction)
        with without_autocast(self.device.type):
            if penalty_of == "network":
                return self.network_bound().log().float()
            parts = self.head_parts(torch.float64)
            return parts.exact_bound(parts.bounded_norm()).float()

    def _penalized_jacobian(self) -> str | None:
        """Whose Jacobian the strategy penalises, `"head"` or `"network"`; `None` where its penalty is another one."""
        return next((layer.penalized_jacobian for group in self.penalty_factors() for layer in group), None)

    def penalizes_network_jacobian(self) -> bool:
        """Whether the penalty is an estimate of the Jacobian of the logits with respect to the pixels."""
        penalized = self._penalized_jacobian()
        return penalized == "network" or (penalized is not None and self.is_certified())

    def _batch_statistics(self, *head_inputs: Any) -> dict[torch.nn.Module, Statistics]:
        """Of the norms in the head that normalise by the batch, from what [`_penalty`] is given; here of none."""
        return {}

    def _eval_mode_logits(
        self, pixel_values: torch.Tensor, statistics: Mapping[torch.nn.Module, Statistics] = NONE
    ) -> torch.Tensor:
        """Logits without dropout, each image by itself: norms read these statistics, or else their running ones."""
        with eval_mode(self), copied_statistics(self, statistics):
            # The class's own: accelerate puts autocast around that of the instance.
            return type(self).forward(self, pixel_values=pixel_values, return_dict=True).logits

    @torch.no_grad()
    def lipschitz_report(
        self, dtype: torch.dtype | None = None, image_size: tuple[int, int] = REPORTED_SIZE
    ) -> dict[str, Any]:
        """
        What is bounded, in which norm, by how much, and whether that is guaranteed; of eval mode.

        Under scope `"head"` the constraint limits the product of the layers' bounds, and with it the head's bound,
        which is the norm of the maps multiplied out: in float32 and float64 it never exceeds the product by more than
        rounding (2e-5 of it).

        Args:
            dtype (`torch.dtype`, *optional*):
                The precision in which the head computes; matrices are cast to it before their norms are taken. By
                default autocast's, where autocast is on, and otherwise that of the encoder.
            image_size (`tuple[int, int]`, *optional*, defaults to `(512, 512)`):
                Height and width of the image that a certified network's constants are of.

        Returns:
            `dict` of plain Python values with

            - `strategy`, `scope`, `dtype` (a name such as `"float32"`);
            - `layers`: for each constrained layer `name`, `norm`, `bound`, `exact` (the operator norm of the effective
              weight in float64; `None` where only a bound of it is known), `operator_norms` (in `l2`, `linf` and
              `l1`), `bounded_norms` (those of them that are proven upper bounds: l2 of convolutions whose kernel
              positions overlap), `share` (of `bound` that the weight's operator norm uses), `guaranteed`, and
              `limited` (whether the constraint holds the bound down);
            - `head`: `norm`, `bound`, `product_of_bounds` (all `None` where the constraint does not bound the head),
              `guaranteed`, `note`, and `norms`: for each norm `bound` (features to logits before upsampling; of these
              weights), `to_relu_bound` and `product_of_norms` (segmentation), and `limited`. The norms are
              `per_pixel_l2`, `linf`, `per_pixel_l1` and `l2` (over images whose sides are multiples of 32); in
              classification `l2`, `linf` and `l1`.
            - `network`, under scope `"network"`: `bound` (`None`: there is none from the pixels on), `guaranteed`
              (False) and `note`. For the attention there is an estimate, [`attention_estimate`];
            - `network`, under scope `"certified"`: `bound`, from the l2 norm of an image on a scale of 0 to 1 to the
              largest over pixels of the l2 norm of the logits, `bound_of_features` (before the classifier's rows,
              whose distances certificates use instead), and `norms` with `l2_to_per_pixel_l2` (the bound),
              `per_pixel_l2` (from the largest change of a pixel) and `l2` (to all logits before upsampling).

        Raises:
            [`~lrsegformer.errors.InputError`]: for a `dtype` that is not a floating-point one.
        """
        dtype = self._head_dtype() if dtype is None else dtype
        strategy, scope = self.config.lipschitz_strategy, self.config.lipschitz_scope
        layers = self.constrained_layers().items()
        constrained = [Constrained(name, layer, self.row_scale_of(layer)) for name, layer in layers]
        if self.is_certified():
            return self.certified_report(dtype, constrained, image_size)
        return build_report(strategy, scope, dtype, constrained, self.head_parts(dtype))

    def attention_estimate(self, pixel_values: torch.Tensor) -> dict[str, Any]:
        """
        How sensitive the attention is at given images: an estimate, measured at these images, that bounds nothing.

        Each row of attention is a softmax, whose Jacobian has an l2 norm of at most `min(p, 2 p (1 - p))` with `p` its
        largest probability: at most 1/2, and near 0 where attention is even or all on one key. How far the rows move
        with the pixels is another matter, and has no bound.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): normalised images.

        Returns:
            `dict` of plain Python values: `quantity`, `images`, `guaranteed` (False), `layers` (for each attention its
            `name`, and the `mean_estimate` and `largest_estimate` over images, heads and rows), and both over all.
        """
        return attention_estimate(self.segformer, pixel_values)

    @torch.no_grad()
    def bounds_to_log(self) -> dict[str, float]:
        """
        The bounds that training may move, by name: of each constrained layer of the head, the largest and the
        geometric mean of the encoder's, and of the head where the constraint bounds it; of a certified model those of
        the head and of the network alone, the latter from an image of the size that reports are of to the logits.
        """
        if self.is_certified():
            return {"head": self.head_bound(), "network": self.logits_bound()}
        bounds, of_encoder = {}, []
        for name, layer in self.constrained_layers().items():
            bound = layer.lipschitz_bound(self.row_scale_of(layer)).item()
            if name.startswith("segformer."):  # Dozens, which no log line is to list.
                of_encoder.append(bound)
            else:
                bounds[name.removeprefix("decode_head.")] = bound
        if of_encoder:
            bounds["encoder_largest"], bounds["encoder_geometric_mean"] = max(of_encoder), geometric_mean(of_encoder)
        of_head = self.head_bound() if bounds else None
        return bounds if of_head is None else {**bounds, "head": of_head}

    @torch.no_grad()
    def head_bound(self, dtype: torch.dtype | None = None) -> float | None:
        """What [`lipschitz_report`] says of `["head"]["bound"]`, without the rest of the report."""
        if self.is_certified():
            return self.certified_head_bound()
        return head_bound(self.head_parts(self._head_dtype() if dtype is None else dtype))

    def head_parts(self, dtype: torch.dtype) -> HeadParts:
        """The head as certification reads it; `dtype` is the precision in which it computes."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its head is made of.")

    def _head_dtype(self) -> torch.dtype:
        """The precision in which the head computes now: autocast's where that is on, else that of the encoder."""
        dtype, device_type = self.segformer.dtype, self.device.type
        if dtype != torch.float64 and torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return dtype

    def _keep_encoder_weights(self) -> None:
        """Compute the effective weights of the encoder once, until training mode; see `merge`."""
        for layer in encoder_layers(self.segformer):
            layer.keep_maps()
