"""`replay`: layers below all that is trained run once for each text; from then on, what they gave is replayed."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

from ..errors import require
from ..fingerprint import checksum
from ..handles import Restorable
from .kept import Damaged, Mapped, Rows, Writer
from .pooling import CONFIG_KEY
from .structure import base_model, depths, layers_of

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LABELS = (
    "_name_or_path",
    "architectures",
    "id2label",
    "label2id",
    "problem_type",
    CONFIG_KEY,
)  # of a config, read above the layers


class Replay(Restorable):
    """What `replay` has put into a model; `restore` takes it out and forgets what was kept.

    Attributes:
        model: whose layers are replayed.
        layers: how many layers are replayed.
        texts: how many texts have run through them and are kept.
        nbytes: bytes of what is kept.
        file: what `fill` has done with its file: ``"read"``, ``"written"``, or ``"written anew: ..."`` and why; empty without.
    """

    def __init__(self, model: nn.Module, max_bytes: float = 4e9):
        self.model, self.base, self.max_bytes, self.file = model, base_model(model), max_bytes, ""
        every, depth = layers_of(model), depths(model)
        lowest = min((depth[name] for name, p in model.named_parameters() if p.requires_grad), default=math.inf)
        self.layers = int(min(lowest, len(every)))
        require(self.layers >= 1, "replay", "model", "trained in its upper layers alone", f"one trained from layer {lowest} on")
        self._below = {name: p for name, p in model.named_parameters() if depth[name] < self.layers}
        self._signature = inspect.signature(type(self.base).forward)
        self._rows = Rows(max_bytes)
        self._mapped: Mapped | None = None
        self._batch: Any = None  # what the layers gave for the batch that is running
        self._recording = False
        self._extra = 0  # what a layer returns beside its hidden states
        self._versions = self._seen()
        self._hook = self.base.register_forward_pre_hook(self._before, with_kwargs=True)
        self._own = {layer: layer.__dict__.get("forward") for layer in every}
        for i, layer in enumerate(every):
            layer.forward = partial(self._layer, i, layer.forward)

    @property
    def texts(self) -> int:
        return len(self._rows) + len(self._mapped or ())

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + (self._mapped.nbytes if self._mapped else 0)

    def fill(self, batches: Iterable[Mapping[str, Tensor]], file: str | Path = "") -> None:
        """Runs these texts through the layers now; so what is kept does not depend on the batches of training.

        Args:
            batches: with ``input_ids`` and what else the model reads of a text, on its device; labels may stand there too.
            file: keeps what they gave for this and later calls, memory-mapped and in at most `max_bytes`; memory then takes
                only texts that are not among these. One that is damaged, or made by another model, is written anew.

        Raises:
            OSError: if the file cannot be read or written; nothing half written is left.
        """
        texts = map(_read, batches)
        if not file:
            for given in texts:
                self._recall(given)
            return
        path, made_by, seen = Path(file), self._made_by(), list[bytes]()
        self.file = self._open(path, made_by)
        first = next((given for given in texts if not self._holds(given, seen)), None)
        if first is not None:
            self.file = "written anew: texts were missing" if self.file == "read" else self.file
            self._write(path, made_by, seen, chain([first], texts))

    def _open(self, path: Path, made_by: str) -> str:
        try:
            self._mapped = Mapped(path, made_by)
            self._extra = self._mapped.beside
        except FileNotFoundError:
            return "written"
        except Damaged as why:
            return f"written anew: it was {why}"
        return "read"

    def _holds(self, given: dict[str, Tensor], seen: list[bytes]) -> bool:
        """Whether the file holds these texts, which then are added to `seen`."""
        keys = _keys(given, _lengths(given))
        if self._mapped is None or any(self._mapped.get(key) is None for key in keys):
            return False
        seen += keys
        return True

    def _write(self, path: Path, made_by: str, seen: list[bytes], batches: Iterable[dict[str, Tensor]]) -> None:
        """Writes the file with what it held for the texts `seen`, and with these."""
        with Writer(path, made_by, self.max_bytes) as writer:
            for key in seen:
                writer.keep(key, cast(Tensor, self._kept(key)))
            for given in batches:
                for key, row in zip(_keys(given, _lengths(given)), self._recall(given, keep=False), strict=True):
                    writer.keep(key, row)
            writer.finish(self._extra)
        self._mapped = Mapped(path, made_by)

    def _made_by(self) -> str:
        """Fingerprint of what the rows depend on beside their texts."""
        config = {name: value for name, value in cast(Any, self.base).config.to_dict().items() if name not in LABELS}
        device = next(iter(self._below.values())).device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        versions = torch.__version__, transformers.__version__
        told = json.dumps([config, self.layers, device, str(autocast), *versions], default=str, sort_keys=True)
        return checksum(self._below, {"told": told})

    def _undo(self) -> None:
        self._hook.remove()
        for layer, forward in self._own.items():
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward
        self.clear()

    def clear(self) -> None:
        """Forgets what was kept; a file stays."""
        self._rows, self._mapped, self._batch = Rows(self.max_bytes), None, None

    def _seen(self) -> list[int]:
        return [parameter._version for parameter in self._below.values()]

    def _before(self, base: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the base model runs: what its lower layers give for this batch."""
        if self._recording:
            return
        given = self._inputs(args, kwargs)
        rows = self._recall(given)
        self._batch = torch.zeros(
            *given["input_ids"].shape, rows[0].shape[-1], dtype=rows[0].dtype, device=given["input_ids"].device
        )
        for place, row in zip(self._batch, rows, strict=True):
            place[: len(row)] = row

    def _recall(self, given: dict[str, Tensor], keep: bool = True) -> list[Tensor]:
        """What the lower layers give for each text's tokens: as it is kept, or run now."""
        if self._versions != (versions := self._seen()):
            self.clear()
            self._versions = versions
        lengths = _lengths(given)
        keys = _keys(given, lengths)
        rows = {key: row for key in keys if (row := self._kept(key)) is not None}
        if missing := [i for i, key in enumerate(keys) if key not in rows]:
            longest = max(lengths[i] for i in missing)
            hidden = self._record({name: tensor[missing, :longest] for name, tensor in given.items()})
            for i, row in zip(missing, hidden, strict=True):
                rows[keys[i]] = row[: lengths[i]]
                if keep:
                    self._rows.keep(keys[i], rows[keys[i]])
        return [rows[key] for key in keys]

    def _kept(self, key: bytes) -> Tensor | None:
        mapped = self._mapped.get(key) if self._mapped else None
        return self._rows.get(key) if mapped is None else mapped

    def _inputs(self, args: tuple, kwargs: dict) -> dict[str, Tensor]:
        bound = self._signature.bind_partial(self.base, *args, **kwargs).arguments
        found = {name: value for name, value in bound.items() if isinstance(value, Tensor)}
        unknown = sorted(set(found) - set(INPUTS))
        require(
            "input_ids" in found and not unknown, "replay", "inputs", f"of {', '.join(INPUTS)}", ", ".join(unknown) or "no ids"
        )
        return found

    def _record(self, given: dict[str, Tensor]) -> Tensor:
        """Runs the lower layers without dropout; the others and the head hand on what they get."""
        self._recording = True
        try:
            with _evaluating(self.base), torch.no_grad():
                self.base(**given)
            return self._batch
        finally:
            self._recording = False

    def _layer(self, i: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward of layer i."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if self._recording and i < self.layers:
            output = forward(*args, **kwargs)
            first, *rest = output if isinstance(output, tuple) else (output,)
            alone = all(part is None for part in rest)
            require(alone, "replay", "model", "one whose layers hand on hidden states alone", type(self.base).__name__)
            self._extra, self._batch = (len(rest) if isinstance(output, tuple) else -1), first
            return output
        if self._recording or i < self.layers:
            handed = self._batch if i == 0 else hidden
            return handed if self._extra < 0 else (handed, *[None] * self._extra)
        return forward(*args, **kwargs)


def replay(model: nn.Module, max_bytes: float = 4e9) -> Replay:
    """Runs the frozen layers below all that is trained once for each text, without dropout, and keeps what they give.

    Every later batch with that text, in whatever order and padding, begins at the lowest trained layer. That is as exact as
    batching is: a text's numbers differ by rounding with the shape of the batch that it was first seen in. What is kept
    takes a hidden state for each token, on the model's device; texts are told apart by their token ids.

    Args:
        model: a transformers model, patched or adapted before: what requires a gradient now is what is trained. Changed until
            `Replay.restore`, or the end of the context; weights, keys and classes stay.
        max_bytes: of what is kept; the texts beyond run through all layers each time.

    Returns:
        The `Replay`, a handle.

    Raises:
        ValueError: if something below the second layer is trained, or the model has no numbered layers; in the forward, for
            texts that are padded on the left, other inputs than ids, mask and token types, or layers that hand on more than
            hidden states.
    """
    return Replay(model, max_bytes)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _read(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in INPUTS if name in batch}


def _lengths(given: Mapping[str, Tensor]) -> list[int]:
    """How many tokens each text has."""
    mask, ids = given.get("attention_mask"), given["input_ids"]
    if mask is None:
        return [ids.shape[1]] * len(ids)
    require(mask.dim() == 2, "replay", "attention_mask", "one number a token", f"the shape {tuple(mask.shape)}")
    real = mask.bool()
    before = bool((real[:, 1:] > real[:, :-1]).any())
    require(not before, "replay", "texts", "padded on the right (tokenizer.padding_side)", "padding before")
    return real.sum(1).tolist()


def _keys(given: Mapping[str, Tensor], lengths: list[int]) -> list[bytes]:
    """What tells each text of a batch from all others."""
    arrays = [given[name].cpu().numpy() for name in INPUTS if name in given and name != "attention_mask"]
    told = (b"|".join(array[i, :length].tobytes() for array in arrays) for i, length in enumerate(lengths))
    return [hashlib.blake2b(text, digest_size=16).digest() for text in told]
