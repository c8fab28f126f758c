"""Constrained weights multiplied out once: for inference by `merge()`, and as plain matrices in an exported graph."""

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from lrsegformer._compat import active_modules

# The tensors that the maps of a module are made of, by their names, as an export found them.
_TENSORS: WeakKeyDictionary[nn.Module, dict[str, ref]] = WeakKeyDictionary()


class MergedMapsMixin:
    """
    For a module whose eval mode goes by `eval_maps()`, a named tuple of tensors made of its weights.

    [`keep_maps`] keeps them as they are now until the weights are loaded, cast or moved to a device through the
    module, or it is set to training. They are not saved.

    `torch.export`, and `torch.onnx.export` by way of it, find them as constants: the graph holds plain matrices, not
    the decompositions that make them, for which ONNX has no operators. (With `strict=True` they are computed in the
    graph.)
    """

    # The submodule that holds the weights; all of them by default.
    weights_of_maps: str = ""
    constant_in_exports: bool = True
    _merged: Any = None
    _merged_from: list[nn.Module] | None = None

    def eval_maps(self) -> Any:
        """The maps of the weights as they are now; differentiable."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its maps are.")

    def keep_maps(self) -> None:
        """Go by the maps of the weights as they are now; see the class."""
        # A tensor made in inference mode could not be part of a gradient with respect to the pixels later.
        with torch.inference_mode(False), torch.no_grad():
            self._merged = _cloned(self.eval_maps())
        self._merged_from = self._wrapped_layers()

    def constant_maps(self) -> Any:
        """The maps that [`keep_maps`] kept, in an export those of the weights as they are now, otherwise `None`."""
        if self._merged is not None and (self._merged_from is None or self._merged_from == self._wrapped_layers()):
            return self._merged
        if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
            return self._computed_outside_the_graph()
        return None

    def named_modules(self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True):
        """
        As in the parent. An export lists all parameters before it puts stand-ins without values in their place, and
        it cannot be asked for them afterwards: this is where they are seen last.
        """
        if self.constant_in_exports and not torch.compiler.is_exporting():
            name = self.weights_of_maps
            modules = nn.Module.named_modules(self.get_submodule(name), prefix=name)
            _TENSORS[self] = {
                f"{name}.{key}" if name else key: ref(tensor)
                for name, module in modules
                for key, tensor in (*module._parameters.items(), *module._buffers.items())
                if tensor is not None
            }
        return super().named_modules(memo, prefix, remove_duplicate)

    def train(self, mode: bool = True):
        """Set training mode, which ends what [`keep_maps`] began, or eval mode."""
        if mode:
            self._merged = None
        return super().train(mode)

    def _wrapped_layers(self) -> list[nn.Module] | None:
        """The active layers where peft has wrapped some, which another adapter may replace; else `None`."""
        layers = self.get_submodule(self.weights_of_maps)
        active = [module for _, module in active_modules(layers)]
        return None if all(any(each is module for each in active) for module in layers.modules()) else active

    def _computed_outside_the_graph(self) -> Any:
        tensors = {f"module.{name}": weak() for name, weak in _TENSORS.get(self, {}).items()}
        if not tensors or any(tensor is None for tensor in tensors.values()):
            return None
        # Outside the modes that trace, with the weights in place of their stand-ins.
        with _disable_current_modes(), torch.no_grad():
            return torch.func.functional_call(_EvalMaps(self), tensors, ())

    def _apply(self, *args, **kwargs):
        self._merged = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._merged = None
        super()._load_from_state_dict(*args, **kwargs)


class EffectiveWeight(NamedTuple):
    """What a constrained layer multiplies by."""

    weight: torch.Tensor


class LayerMapsMixin(MergedMapsMixin):
    """
    For a constrained layer that is called by itself: its one map is the effective weight.

    In an export of the layer alone the constraint is part of the graph. Whoever makes it part of a model that is to be
    exported with plain matrices sets `constant_in_exports`.
    """

    constant_in_exports = False

    def eval_maps(self) -> EffectiveWeight:
        return EffectiveWeight(self.effective_weight())

    def multiplied_weight(self) -> torch.Tensor:
        """The effective weight; in eval mode the one that [`keep_maps`] kept, where it did."""
        maps = None if self.training else self.constant_maps()
        return self.effective_weight() if maps is None else maps.weight


class _EvalMaps(nn.Module):
    """A module whose call is another module's `eval_maps`, for torch's functional calls."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self) -> Any:
        return _cloned(self.module.eval_maps())


def _cloned(maps: Any) -> Any:
    """Copies: a layer that is not constrained multiplies by its own weight, which may change in place."""
    return type(maps)(*(list(map(torch.clone, each)) if isinstance(each, list) else each.clone() for each in maps))
