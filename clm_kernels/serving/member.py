"""One task of a trunk: a classifier of its own that shares the base's weights, and what its delta changes in them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import ops
from ..delta import Delta
from ..errors import require
from ..finetune.classifier import Classifier
from ..finetune.outputs import DELTA
from ..models.attention import bidirectional_layers
from ..models.linear import is_conv1d
from ..models.mixing import mixes_layers
from ..models.structure import base_model, depths, layers_of, weight_of, weights
from ..selection import Entries
from ..strangers import brief
from .base import Base
from .parts import Part


class Member:
    """A task that a trunk holds.

    Its model has modules, config, head, biases, norms and whatever was trained whole for itself. The other weights are the
    base's own tensors, in which the selected entries stand only while `applied` lasts.

    Attributes:
        name: by which it is asked for.
        classifier: with tokenizer, template, labels, calibration and the model.
        values: of each selected weight its entries and their new values.
        layers: of the model; none where they are not one stack.
        begins: the first layer that may give other states than the base's; 0 where that is not known.
        changed: the modules at or below the layers that differ from the base's, by their place below the head, and the name
            of the weight of which some entries are selected, if there is one.
        reads: tasks with the same read a text as the same tokens.
        sides: the layers that attend to both sides.
        alone: why its texts cannot run in one batch with another task's; nothing if they can.
    """

    def __init__(self, name: str, delta: Delta, base: Base):
        self.name, self.classifier = name, Classifier._from_delta(delta, base.folder)
        self.classifier.tokenizer = base.tokenizer(self.classifier.tokenizer)
        model, self._extension = self.classifier.model, delta.extension
        with base.running:
            base.share(model, delta, name)
        model.requires_grad_(False)
        shared = {id(weight) for weight in base.weights.values()}
        self._own = [weight for weight in model.parameters() if id(weight) not in shared]
        for weight in self._own:
            weight.data = weight.data.clone()  # else each keeps the whole file of the base's weights in memory
        self.values = {
            each: (delta.selection[each].to(model.device), delta.values[each].to(model.device)) for each in delta.values
        }
        self.reads = id(self.classifier.tokenizer), self.classifier.max_length, self.classifier.template, self.classifier.task
        self.sides = bidirectional_layers(model)
        self.layers, self.begins, self.changed, self.alone = _where(model, delta, shared)
        self._parts: dict[str, Part] = {}
        self._said = False

    @property
    def labels(self) -> list[str]:
        return self.classifier.label_names

    @property
    def nbytes(self) -> int:
        """Of the tensors that this task has for itself."""
        chosen = [tensor for entries, values in self.values.values() for tensor in (entries._held, values)]
        return sum(tensor.nbytes for tensor in [*self._own, *chosen]) + sum(part.nbytes for part in self._parts.values())

    def part(self, path: str) -> Part | None:
        """What the selected entries of this linear layer add; made when it is first asked for, while the base is as it was read."""
        name = self.changed.get(path)
        if not name:
            return None
        if path not in self._parts:
            module = base_model(self.classifier.model).get_submodule(path)
            entries, values = self.values[name]
            self._parts[path] = Part(entries, values - ops.gather(weight_of(module), entries), is_conv1d(module))
        return self._parts[path]

    def say_alone(self, why: str) -> None:
        """Warns, once, that its texts run by themselves."""
        if not self._said:
            warnings.warn(f"Trunk.classify: {self.name!r} runs by itself, as {why}", stacklevel=5)
        self._said = True

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The base's weights with this task's values in them inside the ``with`` block, and bit for bit without afterwards."""
        named = weights(self.classifier.model)
        with ExitStack() as undo, torch.no_grad():
            for name, (entries, values) in self.values.items():
                if self._extension is not None and name == self._extension.name:
                    undo.enter_context(_grown(self.classifier.model, named[name], entries, values))
                else:
                    former = ops.gather(named[name], entries)
                    undo.callback(ops.scatter_, named[name], entries, former)
                    ops.scatter_(named[name], entries, values)
            yield


def is_known(module: nn.Module) -> bool:
    """Whether its output is a product with its weight, and a bias."""
    return type(module) is nn.Linear or is_conv1d(module)


def _where(model: Any, delta: Delta, shared: set[int]) -> tuple[list[nn.Module], int, dict[str, str], str]:
    """Layers, where they begin to differ from the base's, the modules that do, and what keeps them from a mixed batch."""
    base, depth = base_model(model), depths(model)
    prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is base)
    changed: dict[str, str] = {}
    for path, module in base.named_modules():
        for own, weight in module._parameters.items():
            name = f"{prefix}{path}.{own}" if path else f"{prefix}{own}"
            if weight is not None and depth[name] < math.inf and (name in delta.values or id(weight) not in shared):
                changed[path] = name if name in delta.values else changed.get(path, "")
    try:
        layers = layers_of(model)
    except ValueError:
        return [], 0, changed, "its layers are not one stack"
    lowest = min((depth[name] for name in {*delta.values, *delta.whole}), default=math.inf)
    whole = delta.extension is None and not mixes_layers(model)
    return layers, int(max(0, min(lowest, len(layers)))) if whole else 0, changed, _why_alone(model, base, delta, changed)


def _why_alone(model: Any, base: nn.Module, delta: Delta, changed: dict[str, str]) -> str:
    if delta.extension is not None:
        return "its merged tokens make other tokens of a text"
    if mixes_layers(model):
        return "its head reads a mix of all layers"
    for path, name in changed.items():
        kind, module = delta.selection[name].kind if name else "", base.get_submodule(path)
        fits = kind == "rows" if type(module) is nn.Embedding else kind in ("rows", "columns", "blocks") and is_known(module)
        if kind and not fits:
            return f"the {kind} of {name!r} have no product of their own"
    return "" if delta.values.keys() <= {*changed.values()} else "it changes weights above the layers"


@contextmanager
def _grown(model: Any, weight: Tensor, entries: Entries, values: Tensor) -> Iterator[None]:
    """The input embedding with new tokens' rows; the base's own stays as it is."""
    embedding = model.get_input_embeddings()
    grown = torch.cat([weight, weight.new_zeros(entries.shape[0] - len(weight), weight.shape[1])])
    ops.scatter_(grown, entries, values)
    embedding.weight = nn.Parameter(grown, requires_grad=False)
    try:
        yield
    finally:
        embedding.weight = cast(nn.Parameter, weight)


def read_delta(task: str | Path | Delta, name: str) -> Delta:
    """The delta of a folder that `train` left, or of a file.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    if isinstance(task, Delta):
        return task
    path = Path(task)
    path = path / DELTA if path.is_dir() else path
    expected = f"a folder with {DELTA}, as the methods that train a selection or a head leave it, or a delta file"
    require(path.is_file(), "Trunk.add", f"the task {name!r}", expected, brief(str(task), 300))
    return Delta.load(path)
