"""`Delta`: what one task changed in a model, as a file that can be applied, reverted and merged."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, nn

from . import ops
from .errors import require
from .extension import Extension
from .fingerprint import fingerprint
from .handles import Restorable, Undo
from .models.conform import conform, conformed_weights, recipe_of
from .models.origin import base_fingerprint, base_from_json, base_to_json
from .models.structure import weights
from .recipe import Recipe
from .selection import Entries, Selection
from .shards import divided
from .strangers import brief, fits, inside, parse_json
from .tensors import read_tensors, write_tensors
from .values import Values

FORMAT, FORMER = "clm_kernels.delta/2", "clm_kernels.delta/1"

_stacks: WeakKeyDictionary[nn.Module, list[Delta]] = WeakKeyDictionary()  # what is applied to each model, in order
_merged: WeakSet[nn.Module] = WeakSet()  # in which deltas stay: no bases any more


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
        base: fingerprint of the base (`base_fingerprint`), by which another one is refused; empty where it is not known, as in
            the files of 0.1.
        labels: label names in order.
        recipe: how it was made, and is to be used: where the delta is applied, layers attend to both sides, and a text
            classifier's head pools, as they did in training.
    """

    def __init__(
        self,
        selection: Selection,
        values: Mapping[str, Tensor],
        whole: Mapping[str, Tensor],
        originals: Mapping[str, str],
        labels: Iterable[str] = (),
        recipe: Recipe | None = None,
        extension: Extension | None = None,
        base: str = "",
    ):
        self.selection, self.values, self.whole = selection, dict(values), dict(whole)
        self.originals, self.labels, self.recipe = dict(originals), list(labels), recipe or Recipe()
        self.extension, self.base = extension, base
        known = isinstance(base, str) and re.fullmatch("([0-9a-f]{32})?", base) is not None
        require(known, "Delta", "base", "a fingerprint of 32 hex digits, or nothing", brief(base))
        require(fits(self.originals, {str: str}), "Delta", "originals", "a fingerprint by name", brief(self.originals))
        require(fits(self.labels, [str]), "Delta", "labels", "texts of at most 1,000 characters", brief(self.labels))
        self._applied: Applied | None = None
        if unknown := (self.values.keys() - selection.keys()) | (self.originals.keys() - selection.keys() - self.whole.keys()):
            raise ValueError(f"Delta: {brief(min(unknown))} must be in the selection, but is only in values or originals")
        for name, entries in selection.items():
            if name not in self.values or self.values[name].shape != entries.compact_shape or name not in self.originals:
                raise ValueError(
                    f"Delta: the values of {brief(name, 200)} must be there, of shape {entries.compact_shape}, with a fingerprint"
                )
            if name in self.whole:
                raise ValueError(f"Delta: {brief(name, 200)} must be trained whole or at selected entries, got both")
        if extension is not None:
            extension.check("Delta", selection)

    def apply(self, model: nn.Module) -> Applied:
        """Writes the new values into `model`, a base with the right head's shape, in place; its embedding may grow, its
        layers attend to both sides and its head pools as they did in training.

        It happens wholly or not at all: after an error in the middle the model and its config are as they were.
        Several deltas stack as long as they touch different entries; the last one in is the first one out. Of a model that others
        have written to, only the entries that this one writes are compared with its base.

        Returns:
            A handle, whose `restore` is `revert`.

        Raises:
            ValueError: if the model lacks a weight, holds other values than the base the delta was made on, attends to
                both sides in other layers, or holds another delta whose head pools otherwise.
            RuntimeError: if this delta is applied already, or the model is patched for training.
        """
        if self._applied is not None:
            raise RuntimeError("Delta.apply: this delta is applied already; call revert() first")
        _refuse_patched(model)
        self._check(model, conformed_weights(model, self.recipe))
        rows = None if self.extension is None else self.extension.shape[0]
        with ExitStack() as failed:  # undoes what has been done, unless all of it is
            conformed = conform(model, self.recipe, rows=rows, shared=bool(_stacks.get(model)), function="Delta")
            failed.callback(conformed.restore)
            named, trained = weights(model), self.values | self.whole
            replaced = {name: read(named[name], self.selection.get(name)) for name in trained}
            for name, tensor in trained.items():
                failed.callback(_write, named[name], self.selection.get(name), replaced[name])
                _write(named[name], self.selection.get(name), tensor)
            applied = Applied(self, model, replaced, conformed)
            failed.pop_all()
        _stacks.setdefault(model, []).append(self)
        self._applied = applied
        return applied

    def revert(self) -> None:
        """Gives the model its former values back, bit for bit.

        Raises:
            RuntimeError: if it is not applied, or not the last one that was, or the model is gone or patched for training.
        """
        if self._applied is None:
            raise RuntimeError("Delta.revert: this delta is not applied to any model")
        self._applied.restore()

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
        self.apply(model).keep()
        _stacks[model].remove(self)
        _merged.add(model)
        self._applied = None
        return model

    def _check(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        """Raises ValueError unless the model is the base, and holds its values everywhere that this delta writes."""
        grown = self.extension
        Selection((name, entries) for name, entries in self.selection.items() if not grown or name != grown.name).check(named)
        if grown and grown.name in named and named[grown.name].shape != (grown.rows, grown.columns):
            got = tuple(named[grown.name].shape)
            raise ValueError(f"Delta: {grown.name!r} must have shape {(grown.rows, grown.columns)} as in the base, got {got}")
        for name, tensor in [*self.values.items(), *self.whole.items()]:
            if name not in named:
                raise ValueError(f"Delta: {brief(name, 200)} is not a weight of this model; the delta was made for another one")
            if name in self.whole and named[name].shape != tensor.shape:
                raise ValueError(
                    f"Delta: {brief(name, 200)} must have shape {tuple(tensor.shape)}, got {tuple(named[name].shape)}"
                )
            if named[name].dtype != tensor.dtype:
                raise ValueError(f"Delta: {brief(name, 200)} must be {tensor.dtype} as in the base, got {named[name].dtype}")
        self._check_base(model, named)

    def _check_base(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        grown, now = self.extension, self.base
        changed = None
        for name, mark in self.originals.items():
            held = named[name] if grown and name == grown.name else read(named[name], self.selection.get(name))
            if fingerprint(held) != mark:
                changed = brief(name, 200)
                break
        if self.base and not _stacks.get(model) and model not in _merged:
            own = {*self.whole.keys() - self.originals.keys(), *([grown.name] if grown else ())}
            now = base_fingerprint(model, own)
        if changed or now != self.base:
            made_on, got = (brief(name) if name else "one without a name" for name in (self.recipe.model, recipe_of(model).model))
            both = f": {made_on} with the fingerprint {self.base[:12]}, got {got} with {now[:12]}"
            others = " (another model, or another delta is applied there)"
            told = both if now != self.base else others
            raise ValueError(f"Delta: {changed or 'the model'} does not hold the values of the base this delta was made on{told}")

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file, whole or not at all; nothing in it is pickled."""
        tensors, metadata = self.selection.to_tensors("index.")
        tensors |= {f"values.{name}": tensor for name, tensor in self.values.items()}
        tensors |= {f"whole.{name}": tensor for name, tensor in self.whole.items()}
        metadata |= {"format": FORMAT, "originals": json.dumps(self.originals), "labels": json.dumps(self.labels)}
        metadata |= {"recipe": self.recipe.to_json(), "extension": json.dumps(self.extension and asdict(self.extension))}
        metadata |= {"base": json.dumps(base_to_json(self.base))}
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Delta:
        """Reads what `save` wrote, and checks all of it.

        Nothing is made of the size that the file tells but of what stands in it.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is truncated, altered or something else, larger than what `save` writes, or an index is
                out of bounds.
        """
        tensors, metadata = read_tensors(path, "Delta.load", FORMAT, FORMER)
        values, whole = (
            {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            for part in ("values.", "whole.")
        )
        with inside("Delta.load", path):
            selection = Selection.from_tensors(tensors, metadata, "index.")
            originals, labels = (parse_json(metadata.get(key, "null"), "Delta", key) for key in ("originals", "labels"))
            require(isinstance(originals, dict), "Delta", "originals", "a fingerprint by name", brief(originals))
            require(isinstance(labels, list), "Delta", "labels", "a list", brief(labels))
            described = parse_json(metadata.get("extension", "null"), "Delta", "extension")  # which older files lack
            extension = None if described is None else Extension.from_json(described)
            base = base_from_json(parse_json(metadata.get("base", "null"), "Delta", "base"))  # likewise
            return cls(selection, values, whole, originals, labels, Recipe.from_metadata(metadata), extension, base)

    def __repr__(self) -> str:
        return f"Delta({self.selection.count:,} entries of {len(self.selection)} weights, {len(self.whole)} whole, {len(self.labels)} labels)"


class Applied(Restorable):
    """What `Delta.apply` did to a model, which this keeps no hold of.

    Attributes:
        delta: what is applied.
    """

    def __init__(self, delta: Delta, model: nn.Module, replaced: dict[str, Tensor], conformed: Undo):
        self.delta, self._model, self._replaced, self._calls = delta, ref(model), replaced, conformed.calls

    @property
    def model(self) -> nn.Module | None:
        """What it is applied to; None once that is gone."""
        return self._model()

    def keep(self) -> None:
        """From now on, `restore` changes nothing: the values stay, and so does how the model reads."""
        self._restored, self._replaced, self._calls = True, {}, ()

    def _undo(self) -> None:
        model = self.model
        if model is None:
            raise RuntimeError("Delta.revert: the model that this delta was applied to is gone")
        _refuse_patched(model)
        if _stacks[model][-1] is not self.delta:
            raise RuntimeError("Delta.revert: another delta was applied after this one; revert that one first")
        named = weights(model)
        for name, former in self._replaced.items():
            _write(named[name], self.delta.selection.get(name), former)
        Undo(model, *self._calls).restore()
        _stacks[model].pop()
        self.delta._applied = None


def read(weight: Tensor, entries: Entries | None) -> Tensor:
    """A copy of what the weight holds at these entries, compact; of all of it, without any."""
    return weight.detach().clone() if entries is None else ops.gather(weight.detach(), entries.to(weight.device))


def _write(weight: Tensor, entries: Entries | None, values: Tensor) -> None:
    values = values.to(weight.device)
    with torch.no_grad():
        weight.copy_(values) if entries is None else ops.scatter_(weight.detach(), entries.to(weight.device), values)


def _refuse_patched(model: nn.Module) -> None:
    if any(isinstance(parameter, Values) for parameter in model.parameters()):
        raise RuntimeError("Delta: the model is patched for training; call restore() on its handle first")
    if divided(model):
        raise RuntimeError("Delta: the model must be whole, got one that is divided over processes; load its base anew")
