"""`bidirectional`: lets the layers of a decoder attend to both sides, for texts that are read and not written."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..extras import needs
from ..handles import Undo
from .families import is_encoder

CONFIG_KEY = "clm_bidirectional"
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")
LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}  # those that a mask describes
_HOOK = "_clm_bidirectional_hook"
_mirrored = WeakTensorKeyDictionary()  # a mask -> its version and what it becomes: one for all layers


def bidirectional(model: nn.Module, layers: str | range | tuple[int, int] = "all") -> Undo:
    """Takes the causal mask off some layers of a decoder; recorded in the model's config, weights and keys unchanged.

    A chosen layer's mask is joined with its mirror image. So padding stays invisible on either side, a sliding window
    of w keeps its reach of w - 1 and gets the same to the right, and packed texts stay apart (label-supervised
    decoders, arXiv 2310.01208, which lets padding take part). A key-value cache makes no sense then: `use_cache` is
    off, and `generate` must be told so.

    A checkpoint is restored by `restore_attention`. That of a model whose layers are all chosen says ``is_causal=False``
    too, by which transformers alone reads it the same, but for sliding windows: there they reach one token further.

    Args:
        model: a decoder of transformers, with any head; changed in place. An encoder is left as it is, with a warning.
        layers: ``"all"``, ``"upper half"``, or which: a range, or (first, one past the last). Replaces an earlier choice.

    Returns:
        A handle, whose `restore` brings the earlier choice back, if there was one.

    Raises:
        ValueError: for layers that the model has not; for a model whose layers cannot be made bidirectional by their
            mask (state-space and recurrent layers, masks baked in, encoder-decoders), or an attention implementation
            other than eager, sdpa and FlashAttention-2. The model is left as it was.
    """
    if reason := sees_both_sides(model):
        warnings.warn(f"bidirectional: {type(model).__name__} {reason}; it is left as it is", stacklevel=2)
        return Undo(model)
    stack, attentions = _attentions(model)
    chosen = _range(layers, len(attentions))
    _check_implementation(stack)
    with ExitStack() as failed:
        handle = failed.enter_context(causal(model))
        _hook(stack, (attentions[i] for i in chosen))
        config = _config(model)
        setattr(config, CONFIG_KEY, [chosen.start, chosen.stop])
        if len(chosen) == len(attentions):
            config.is_causal = False
        failed.pop_all()
    return handle


def causal(model: nn.Module) -> Undo:
    """Takes back what `bidirectional` did, hooks and config.

    Args:
        model: changed in place; one that `bidirectional` has not changed is left as it is.

    Returns:
        A handle, whose `restore` makes the layers attend as they did before.
    """
    config, hooked = _config(model), [name for name, module in model.named_modules() if _HOOK in module.__dict__]
    former = {name: vars(config)[name] for name in (CONFIG_KEY, "is_causal") if config is not None and name in vars(config)}
    _unhook(model)
    if _record(model):
        delattr(config, CONFIG_KEY)
        if getattr(config, "is_causal", True) is False:
            del config.is_causal
    return Undo(model, partial(_attend_as, hooked=hooked, recorded=former))


def restore_attention(model: nn.Module) -> Undo:
    """Makes a model that was just loaded attend as its config says that it was trained.

    Args:
        model: changed in place; one whose config says nothing is left as it is.

    Returns:
        A handle, whose `restore` makes it attend as it was loaded.

    Raises:
        ValueError: as `bidirectional` does.
    """
    return bidirectional(model, tuple(record)) if (record := _record(model)) else Undo(model)


def _hook(stack: nn.Module, attentions: Iterable[nn.Module]) -> None:
    for module, hook in [(stack, _causal_first), *((attention, _both_sides) for attention in attentions)]:
        setattr(module, _HOOK, module.register_forward_pre_hook(hook, with_kwargs=True))


def _unhook(model: nn.Module) -> None:
    for module in model.modules():
        if hook := module.__dict__.pop(_HOOK, None):
            hook.remove()


def _attend_as(model: nn.Module, hooked: list[str], recorded: dict[str, Any]) -> None:
    """Undoes what has become of these hooks and of the config's record since `causal` looked at them."""
    _unhook(model)
    if hooked:
        stack, *attentions = map(model.get_submodule, hooked)  # what holds the layers comes before them
        _hook(stack, attentions)
    config = _config(model)
    for name in (CONFIG_KEY, "is_causal") if config is not None else ():
        vars(config).pop(name, None)
        if name in recorded:
            setattr(config, name, recorded[name])


def bidirectional_layers(model: nn.Module) -> range:
    """The layers that `bidirectional` has chosen: here, or in the checkpoint, if its config alone makes transformers do so.

    Args:
        model: any; of one that attends to one side, the range is empty.
    """
    modules: list[Any] = list(model.modules())
    numbers = sorted(m.layer_idx for m in modules if hasattr(m, _HOOK) and hasattr(m, "layer_idx"))
    if numbers:
        return range(numbers[0], numbers[-1] + 1)
    told = (record := _record(model)) and getattr(_config(model), "is_causal", True) is False
    return range(*record) if told else range(0)


def mirrored(mask: Tensor | None) -> Tensor | None:
    """A causal mask joined with its mirror image: what sees each other one way then does so both ways.

    Args:
        mask: ``(B, 1, T, P + T)``, true (or the larger number, if it is added) where a query sees a key; P keys may
            stand before the text. FlashAttention's ``(B, P + T)`` and None hold no direction and are given back.
    """
    if mask is None or mask.dim() == 2:
        return mask
    length = mask.shape[-2]
    before, square = mask.split([mask.shape[-1] - length, length], -1)
    real = square.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)  # a token that is no padding sees itself
    return torch.cat([before, torch.minimum(torch.maximum(square, square.mT), real)], -1)


def _both_sides(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Forward pre-hook of a chosen layer's attention; recomputing the layer does the same again."""
    mask = kwargs["attention_mask"]
    if mask is None or torch.compiler.is_compiling() or mask.is_inference():  # such a tensor does not say that it has changed
        return args, kwargs | {"attention_mask": mirrored(mask), "is_causal": False}
    if mask not in _mirrored or _mirrored[mask][0] != mask._version:
        _mirrored[mask] = mask._version, mirrored(mask)
    return args, kwargs | {"attention_mask": _mirrored[mask][1], "is_causal": False}


def _causal_first(stack: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Forward pre-hook of what holds the layers: it shall make causal masks, whatever the config tells transformers."""
    _check_implementation(stack)
    if kwargs.get("use_cache"):
        raise ValueError(
            "bidirectional: use_cache must be False, got True; what is cached of a text would change with every new token"
        )
    return args, kwargs | {"use_cache": False, "is_causal": True}


def _config(model: nn.Module) -> Any:
    """Config of the layers that read text, of a model of transformers; None of any other module."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else None


def _record(model: nn.Module) -> Any:
    """The first layer and one past the last, as the config tells; None where it does not."""
    return getattr(_config(model), CONFIG_KEY, None)


def sees_both_sides(model: nn.Module) -> str:
    """Why there is nothing to take off; nothing if there is."""
    config = _config(model)
    if is_encoder(config):
        return "is an encoder and attends to both sides already"
    asked, kind = getattr(config, "use_bidirectional_attention", None), getattr(config, "model_type", "")
    heeded = asked == "all" or (asked is True and kind.startswith("gemma3"))  # Gemma 1 and 2 keep their causal mask
    if _record(model) is None and (heeded or getattr(config, "is_causal", True) is False):
        return "attends to both sides already, as its config says"
    return ""


def _attentions(model: Any) -> tuple[nn.Module, list[nn.Module]]:
    """The module that holds the layers, and every layer's attention in order."""
    pretrained = needs("transformers", "bidirectional").PreTrainedModel
    found = {name: module for name, module in model.named_modules() if getattr(module, "is_causal", None) is True}
    config = _config(model)
    numbers = [getattr(module, "layer_idx", None) for module in found.values()]
    stack = model.get_submodule(re.split(r"(?:^|\.)[^.]+\.\d+\.", min(found, default=""))[0])
    if (
        numbers != list(range(getattr(config, "num_hidden_layers", 0)))
        or not numbers
        or model.config.is_encoder_decoder  # which the config of its decoder alone may not say
        or not set(getattr(config, "layer_types", None) or ()) <= LAYER_TYPES
        or not isinstance(stack, pretrained)
        or not stack._supports_attention_backend
        or not all(_takes_anything(module) for module in (stack, *found.values()))
    ):
        raise ValueError(
            "bidirectional: model must be a decoder of transformers whose every layer attends by the mask that it is given"
            f" (Llama, Qwen, Mistral, Gemma, GPT-2, OPT and their like), got {type(model).__name__}"
        )
    return stack, list(found.values())


def _takes_anything(module: nn.Module) -> bool:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _range(layers: str | range | tuple[int, int], count: int) -> range:
    named = {"all": range(count), "upper half": range(count // 2, count)}
    if isinstance(layers, str):
        chosen = named.get(layers)
    elif isinstance(layers, range):
        chosen = layers
    else:
        pair = isinstance(layers, (tuple, list)) and [type(i) for i in layers] == [int, int]
        chosen = range(*layers) if pair else None
    if not chosen or chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= count:
        raise ValueError(
            f"bidirectional: layers must be 'all', 'upper half', or one or more in a row of 0 to {count - 1}"
            f" as a range or (first, one past the last), got {layers!r}"
        )
    return chosen


def _check_implementation(stack: Any) -> None:
    implementation = stack.config._attn_implementation
    if implementation not in ATTENTIONS:
        raise ValueError(f"bidirectional: the attention implementation must be {', '.join(ATTENTIONS)}, got {implementation}")
