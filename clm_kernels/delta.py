"""`Delta`: what one task changed in a model, as a file that can be applied, reverted and merged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from . import ops
from .extension import Extension, resize_embedding
from .files import write_atomically
from .fingerprint import checksum, fingerprint
from .models.attention import bidirectional, bidirectional_layers, causal
from .models.pooling import current_pooling, set_pooling
from .models.structure import weights
from .patching.layers import Compact
from .selection import Entries, Selection

if TYPE_CHECKING:
    from .patching import Handle

FORMAT = "clm_kernels.delta/1"

_stacks: WeakKeyDictionary[nn.Module, list[Delta]] = WeakKeyDictionary()  # what is applied to each model, in order


class Delta:
    """A task's selected entries and everything else that was trained: new values, and what they replace.

    Attributes:
        selection: which entries of which weights.
        values: name -> their new values, compact.
        whole: name -> new tensor, of parameters that were trained whole: biases, normalisation, the head.
        originals: name -> fingerprint of what the base must hold there; the head's has none, and where there are new
            tokens, the base's whole embedding has one.
        extension: the new tokens, if there are any. The base's embedding gets their rows when the delta is applied, and
            loses them when it is reverted; deltas that train other entries of it do not stack with this one.
        labels: label names in order.
        made: how it was made; under ``"bidirectional"``, the layers that attended to both sides, if any did, and under
            ``"pooling"``, what a text classifier's head read. Both are so again where the delta is applied.
    """

    def __init__(
        self,
        selection: Selection,
        values: Mapping[str, Tensor],
        whole: Mapping[str, Tensor],
        originals: Mapping[str, str],
        labels: Iterable[str] = (),
        made: dict | None = None,
        extension: Extension | None = None,
    ):
        self.selection, self.values, self.whole = selection, dict(values), dict(whole)
        self.originals, self.labels, self.made = dict(originals), list(labels), made or {}
        self.extension = extension
        self._applied: tuple[ref[nn.Module], dict[str, Tensor]] | None = None  # not to keep the model alive
        self._unmasked = False  # whether applying it made the model bidirectional
        self._repooled: str | None = None  # what the head read before, where applying it changed that
        if unknown := (self.values.keys() - selection.keys()) | (self.originals.keys() - selection.keys() - self.whole.keys()):
            raise ValueError(f"Delta: {min(unknown)!r} must be in the selection, but is only in values or originals")
        for name, entries in selection.items():
            if name not in self.values or self.values[name].shape != entries.compact_shape or name not in self.originals:
                raise ValueError(
                    f"Delta: the values of {name!r} must be there, of shape {entries.compact_shape}, with a fingerprint"
                )
            if name in self.whole:
                raise ValueError(f"Delta: {name!r} must be trained whole or at selected entries, got both")
        if extension is not None:
            extension.check("Delta", selection)

    @classmethod
    def from_handle(cls, handle: Handle, labels: Iterable[str] | None = None, made: dict | None = None) -> Delta:
        """What a patched model has learnt so far; see `Handle.delta`."""
        if labels is None:
            id2label = getattr(getattr(handle.model, "config", None), "id2label", None) or {}
            labels = [id2label[i] for i in sorted(id2label)]
        named = weights(handle.model)
        if not all([*handle.whole.values(), *handle.originals.values()]):
            raise RuntimeError("Handle.delta: the model must have been patched in memory, got one of the meta device (dry)")
        for name, trained in handle.values.items():
            if handle.patched and fingerprint(trained) != fingerprint(_read(named[name], trained.entries)):
                raise RuntimeError(
                    f"Handle.delta: the values of {name!r} are not what the model holds; train with SparseAdamW, or refresh() them"
                )
        selection = Selection((name, entries.to("cpu")) for name, entries in handle.selection.items())
        values = {name: _read(named[name], entries).cpu() for name, entries in selection.items()}
        whole = {name: named[name].detach().cpu().clone() for name in handle.whole}
        marks = {name: mark for name, mark in handle.whole.items() if name not in handle.head}
        marks |= {name: handle.originals[name] for name in selection}
        if layers := bidirectional_layers(handle.model):
            made = {**(made or {}), "bidirectional": [layers.start, layers.stop]}
        if pooling := current_pooling(handle.model):
            made = {"pooling": pooling, **(made or {})}
        return cls(selection, values, whole, marks, labels, made, handle.extension)

    def apply(self, model: nn.Module) -> None:
        """Writes the new values into `model`, a base with the right head's shape, in place; its embedding may grow, its
        layers attend to both sides and its head pools as they did in training.

        Several deltas stack as long as they touch different entries; the last one in is the first one out.

        Raises:
            ValueError: if the model lacks a weight, holds other values than the base the delta was made on, attends to
                both sides in other layers, or holds another delta whose head pools otherwise.
            RuntimeError: if this delta is applied already, or the model is patched for training.
        """
        if self._applied is not None:
            raise RuntimeError("Delta.apply: this delta is applied already; call revert() first")
        _refuse_patched(model)
        named = weights(model)
        self._check(named)
        pooling = self._other_pooling(model)
        self._unmask(model)
        if pooling:
            self._repooled = current_pooling(model)
            set_pooling(model, pooling)
        if self.extension is not None:
            resize_embedding(model, self.extension.shape[0])
            named = weights(model)
        replaced = {name: _read(named[name], self.selection.get(name)) for name in [*self.values, *self.whole]}
        for name in self.values:
            _write(named[name], self.selection[name], self.values[name])
        for name, tensor in self.whole.items():
            _write(named[name], None, tensor)
        _stacks.setdefault(model, []).append(self)
        self._applied = ref(model), replaced

    def revert(self) -> None:
        """Gives the model its former values back, bit for bit."""
        if self._applied is None:
            raise RuntimeError("Delta.revert: this delta is not applied to any model")
        model, replaced = self._applied[0](), self._applied[1]
        if model is None:
            raise RuntimeError("Delta.revert: the model that this delta was applied to is gone")
        _refuse_patched(model)
        if _stacks[model][-1] is not self:
            raise RuntimeError("Delta.revert: another delta was applied after this one; revert that one first")
        named = weights(model)
        for name, former in replaced.items():
            _write(named[name], self.selection.get(name), former)
        if self.extension is not None:
            resize_embedding(model, self.extension.rows)
        if self._unmasked:
            causal(model)
        if self._repooled:
            set_pooling(model, self._repooled)
        _stacks[model].pop()
        self._applied, self._unmasked, self._repooled = None, False, None

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with this delta inside the ``with`` block, and without it afterwards."""
        self.apply(model)
        try:
            yield model
        finally:
            self.revert()

    def merge(self, model: nn.Module) -> nn.Module:
        """Applies for good: the model's checkpoint then needs no `clm_kernels`. Returns the model."""
        self.apply(model)
        _stacks[model].remove(self)
        self._applied, self._unmasked, self._repooled = None, False, None
        return model

    def _other_pooling(self, model: nn.Module) -> str | None:
        """What the head must be made to read, if that is not what it reads."""
        wanted, now = self.made.get("pooling"), current_pooling(model)
        if None in (wanted, now) or wanted == now:
            return None
        if _stacks.get(model):
            raise ValueError(f"Delta: the head must pool {wanted} as in training, got {now} of the delta that is applied already")
        return wanted

    def _unmask(self, model: nn.Module) -> None:
        """Makes the layers attend to both sides that did so in training."""
        wanted, now = self.made.get("bidirectional"), bidirectional_layers(model)
        if wanted and not now:
            bidirectional(model, tuple(wanted))
            self._unmasked = True
        elif now and [now.start, now.stop] != wanted:
            trained = f"layers {wanted[0]} to {wanted[1] - 1}" if wanted else "no layer"
            raise ValueError(
                f"Delta: the model must attend to both sides in {trained} as in training, got {now.start} to {now.stop - 1}"
            )

    def _check(self, named: Mapping[str, Tensor]) -> None:
        """Raises ValueError unless the model holds the base's values everywhere that this delta writes."""
        grown = self.extension
        Selection((name, entries) for name, entries in self.selection.items() if not grown or name != grown.name).check(named)
        if grown and grown.name in named and named[grown.name].shape != (grown.rows, grown.columns):
            got = tuple(named[grown.name].shape)
            raise ValueError(f"Delta: {grown.name!r} must have shape {(grown.rows, grown.columns)} as in the base, got {got}")
        for name, tensor in [*self.values.items(), *self.whole.items()]:
            if name not in named:
                raise ValueError(f"Delta: {name!r} is not a weight of this model; the delta was made for another one")
            if name in self.whole and named[name].shape != tensor.shape:
                raise ValueError(f"Delta: {name!r} must have shape {tuple(tensor.shape)}, got {tuple(named[name].shape)}")
            if named[name].dtype != tensor.dtype:
                raise ValueError(f"Delta: {name!r} must be {tensor.dtype} as in the base, got {named[name].dtype}")
        for name, mark in self.originals.items():
            read = named[name] if grown and name == grown.name else _read(named[name], self.selection.get(name))
            if fingerprint(read) != mark:
                raise ValueError(
                    f"Delta: {name!r} does not hold the values of the base this delta was made on "
                    "(another model, or another delta is applied there)"
                )

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file, whole or not at all; nothing in it is pickled."""
        tensors, metadata = self.selection.to_tensors("index.")
        tensors |= {f"values.{name}": tensor.contiguous() for name, tensor in self.values.items()}
        tensors |= {f"whole.{name}": tensor.contiguous() for name, tensor in self.whole.items()}
        metadata |= {"format": FORMAT, "originals": json.dumps(self.originals), "labels": json.dumps(self.labels)}
        metadata |= {"made": json.dumps(self.made), "extension": json.dumps(self.extension and asdict(self.extension))}
        metadata["checksum"] = checksum(tensors, metadata)
        write_atomically(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Delta:
        """Reads what `save` wrote, and checks all of it.

        Raises:
            ValueError: if the file is truncated, altered or something else, or an index is out of bounds.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"Delta.load: {os.fspath(path)!r} is truncated or no safetensors file: {error}") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"Delta.load: {os.fspath(path)!r} must have format {FORMAT}, got {metadata.get('format')}")
        if metadata.pop("checksum", None) != checksum(tensors, metadata):
            raise ValueError(f"Delta.load: {os.fspath(path)!r} has been altered since it was saved: its checksum does not match")
        selection = Selection.from_tensors(tensors, metadata, "index.")
        parts = {
            part: {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
            for part in ("values.", "whole.")
        }
        try:
            originals, labels, made = (json.loads(metadata[key]) for key in ("originals", "labels", "made"))
            described = json.loads(metadata.get("extension", "null"))  # which older files lack
            extension = None if described is None else Extension.from_json(described)
            return cls(selection, parts["values."], parts["whole."], originals, labels, made, extension)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Delta.load: {os.fspath(path)!r} is incomplete or altered, {error!r}") from error

    def __repr__(self) -> str:
        return f"Delta({self.selection.count:,} entries of {len(self.selection)} weights, {len(self.whole)} whole, {len(self.labels)} labels)"


def _read(weight: Tensor, entries: Entries | None) -> Tensor:
    return weight.detach().clone() if entries is None else ops.gather(weight.detach(), entries.to(weight.device))


def _write(weight: Tensor, entries: Entries | None, values: Tensor) -> None:
    values = values.to(weight.device)
    with torch.no_grad():
        weight.copy_(values) if entries is None else ops.scatter_(weight.detach(), entries.to(weight.device), values)


def _refuse_patched(model: nn.Module) -> None:
    if any(isinstance(module, Compact) for module in model.modules()):
        raise RuntimeError("Delta: the model is patched for training; call restore() on its handle first")
