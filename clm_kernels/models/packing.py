"""`pack_batches`: the texts of a padded batch share rows, so that hardly any padding runs through the layers."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import listed, require
from ..handles import Restorable
from .attention import sees_both_sides
from .families import is_encoder
from .packed_rows import Price, Rows, arranged
from .pooled_head import is_cache
from .replay import Replay
from .structure import base_model, layers_of

FAMILIES = {  # config.model_type -> whether positions are counted from the padding id on
    "bert": False, "distilbert": False, "roberta": True, "xlm-roberta": True, "camembert": True, "mpnet": True,
    "llama": False, "mistral": False, "qwen2": False, "qwen3": False, "gemma": False, "gemma2": False, "gemma3_text": False,
    "gpt2": False,
}  # fmt: skip
ATTENTIONS = ("eager", "sdpa")  # that take a mask of any form
PACKED = ("input_ids", "token_type_ids", "position_ids")
ASKED = {"use_cache": False, "output_hidden_states": False, "output_attentions": False, "return_dict": True}


class PackedTokens(NamedTuple):
    """Of batches that have run.

    Attributes:
        real: tokens of texts.
        padded: places, had they been padded.
        run: places that ran through the layers.
    """

    real: int = 0
    padded: int = 0
    run: int = 0


class Packing(Restorable):
    """What `pack_batches` has put into a model; `restore` takes it out.

    Attributes:
        model: whose batches are packed.
        tokens: of all batches whose gradient could be taken; those of validation are not counted.
    """

    def __init__(self, model: nn.Module):
        check_packing("pack_batches", model)
        self.model = model
        self.base: Any = base_model(model)
        forward: Any = getattr(vars(self.base).get("forward"), "func", None)
        packed = isinstance(getattr(forward, "__self__", None), Packing)
        require(not packed, "pack_batches", "model", "one whose batches are not packed yet", "one that is")
        self.tokens = PackedTokens()
        self._price = _price(model)
        self._names = list(inspect.signature(type(self.base).forward).parameters)[1:]
        self._rows: Rows | None = None  # of the batch that is running
        pooler = getattr(self.base, "pooler", None)
        self._own = [(module, vars(module).get("forward")) for module in (self.base, pooler) if module is not None]
        self.base.forward = partial(self._forward, self.base.forward)
        if pooler is not None:
            pooler.forward = partial(self._pool, pooler.forward)

    def _undo(self) -> None:
        for module, forward in self._own:
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward

    def _forward(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward of the base model, whose hooks see the padded batch."""
        given = {name: value for name, value in {**dict(zip(self._names, args)), **kwargs}.items() if value is not None}
        self._check(given)
        rows = self._arranged(given)
        if rows is None:
            return forward(*args, **kwargs)
        ids = given["input_ids"]
        inputs = {"position_ids": self._positions(ids)} | given
        fills = {"input_ids": int(getattr(self.base.config, "pad_token_id", None) or 0)}
        packed: dict[str, Any] = {
            name: rows.pack(inputs[name].expand_as(ids), fills.get(name, 0)) for name in PACKED if name in inputs
        }
        mask = self._mask(rows, given)
        if not is_encoder(self.base.config):
            packed |= {"use_cache": False}
        self._rows = rows
        try:
            output = forward(**given | packed | {"attention_mask": mask})
        finally:
            self._rows = None
        output.last_hidden_state = rows.unpack(output.last_hidden_state)
        return output

    def _pool(self, forward: Any, hidden: Tensor) -> Tensor:
        """The forward of BERT's pooler, which reads the first token of each text."""
        return forward(hidden if self._rows is None else self._rows.unpack(hidden))

    def _check(self, given: dict[str, Any]) -> None:
        check_packing("pack_batches", self.model)
        tensors = {name for name, value in given.items() if is_cache(value) or (isinstance(value, Tensor) and value.dim())}
        known = ("attention_mask", *PACKED)
        unknown = sorted(tensors - set(known))
        expected = f"of {', '.join(known)}"
        require("input_ids" in given and not unknown, "pack_batches", "inputs", expected, ", ".join(unknown) or "no ids")
        for name, needed in ASKED.items():
            asked = given.get(name, needed if name == "use_cache" else getattr(self.base.config, name, needed))
            require(bool(asked) is needed, "pack_batches", name, f"{needed}", repr(asked))

    def _arranged(self, given: dict[str, Any]) -> Rows | None:
        """Where the texts of this batch go; None if it runs as it is."""
        ids, mask = given["input_ids"], given.get("attention_mask")
        size, width = ids.shape
        real = torch.ones(size, width, dtype=torch.bool) if mask is None else mask.detach().cpu().ne(0)
        shape = f"({size}, {width}), a number for each token"
        require(real.shape == ids.shape, "pack_batches", "attention_mask", f"of shape {shape}", tuple(real.shape))
        right = bool((real[:, 1:] <= real[:, :-1]).all())
        require(right, "pack_batches", "texts", "padded on the right (tokenizer.padding_side)", "padding before")
        lengths = real.sum(1).tolist()
        reach = getattr(self.base.config, "sliding_window", None)
        near = reach is None or max(lengths, default=0) <= reach  # else a layer's own window would have to stand in the mask
        texts = arranged(lengths, width, self._price) if near else None
        rows = None if texts is None else Rows(lengths, width, texts, ids.device)
        if torch.is_grad_enabled():
            run = size * width if rows is None else rows.text.numel()
            self.tokens = PackedTokens(*map(sum, zip(self.tokens, (sum(lengths), size * width, run))))
        return rows

    def _positions(self, ids: Tensor) -> Tensor:
        """Of each token in its own text, as the family counts them."""
        if not FAMILIES[self.base.config.model_type]:
            return torch.arange(ids.shape[1], device=ids.device)
        padding = self.base.embeddings.padding_idx
        real = ids.ne(padding).long()
        return real.cumsum(1) * real + padding

    def _mask(self, rows: Rows, given: dict[str, Any]) -> Tensor:
        """As the attention takes it: bool for sdpa, to be added for eager."""
        config = self.base.config
        told = given.get(
            "is_causal", getattr(config, "is_causal", True)
        )  # `bidirectional` asks for causal masks, and mirrors them
        seen = rows.mask(causal=told and not sees_both_sides(self.model))
        if config._attn_implementation == "sdpa":
            return seen
        dtype = self.base.get_input_embeddings().weight.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def pack_batches(model: nn.Module) -> Packing:
    """Lets the texts of a padded batch share rows, each seeing none but itself, at positions of its own.

    Batches come and go as before: the base model's last hidden states are put back as ``(B, T, H)``, with zeros at the padding,
    so head, pooling, labels and losses stay as they are. It is exact to rounding, with another draw of dropout. A batch runs as
    it is where sharing would not save anything, or where a text is longer than a sliding window. A GPU's host waits once a batch,
    for the lengths. What tells tokens by their place in the batch, as ``handle.active.only``, does not go together with it.

    Args:
        model: a transformers model of one of `FAMILIES`, patched or not; changed until `Packing.restore`, or the end of the
            context. Weights, keys and classes stay.

    Returns:
        The `Packing`, a handle, which counts the tokens.

    Raises:
        ValueError: for another family, another attention implementation than eager and sdpa, or a model that `replay` has
            changed; in the forward, for texts that are padded on the left, ``inputs_embeds``, caches, other masks than one
            number a token, or if other outputs than the last hidden states are asked for.
    """
    return Packing(model)


def check_packing(function: str, model: nn.Module) -> None:
    """Raises ValueError in the name of `function` if the batches of this model cannot be packed."""
    base: Any = base_model(model)
    config: Any = getattr(base, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    require(kind in FAMILIES, function, "model", f"of a family that is exact when packed ({listed(FAMILIES, 20)})", repr(kind))
    alone = not getattr(config, "is_decoder", False) and not getattr(config, "add_cross_attention", False)
    require(alone, function, "model", "no decoder of an encoder", f"a {type(model).__name__} with is_decoder or cross-attention")
    implementation = config._attn_implementation
    named = " or ".join(ATTENTIONS)
    require(implementation in ATTENTIONS, function, "the attention implementation", named, repr(implementation))
    replayed = any(isinstance(getattr(hook, "__self__", None), Replay) for hook in base._forward_pre_hooks.values())
    require(not replayed, function, "model", "one whose layers all run", "one that replay has changed")


def _price(model: Any) -> Price:
    """FLOPs of a forward: two for each weight of the layers, and those of queries with keys and of the outcome with values."""
    layers = layers_of(model)
    named = (found for layer in layers for found in layer.named_parameters())
    weights = sum(parameter.numel() for name, parameter in named if name.endswith("weight"))
    return Price(2 * weights, 4 * model.config.hidden_size * len(layers))
