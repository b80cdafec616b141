"""One task of a trunk: a classifier of its own that shares the base's weights, and what its delta changes in them."""

from __future__ import annotations

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
from ..models.structure import depths, weights
from ..selection import Entries
from ..strangers import brief
from .base import Base


class Member:
    """A task that a trunk holds.

    Its model has modules, config, head, biases, norms and whatever was trained whole for itself. The other weights are the
    base's own tensors, in which the selected entries stand only while `applied` lasts.

    Attributes:
        name: by which it is asked for.
        classifier: with tokenizer, template, labels, calibration and the model.
        values: of each selected weight its entries and their new values.
        lowest: depth of the lowest weight that it changes: a layer's number, -1 below the layers, inf for the head alone.
    """

    def __init__(self, name: str, delta: Delta, base: Base):
        self.name, self.classifier = name, Classifier._from_delta(delta, base.folder)
        self.classifier.tokenizer = base.tokenizer(self.classifier.tokenizer)
        model, self._extension = self.classifier.model, delta.extension
        depth = depths(model)
        self.lowest = min((depth[each] for each in {*delta.values, *delta.whole}), default=float("inf"))
        with base.running:
            base.share(model, delta, name)
        self._own = [weight for weight in model.parameters() if not any(weight is shared for shared in base.weights.values())]
        device = model.device
        self.values = {each: (delta.selection[each].to(device), delta.values[each].to(device)) for each in delta.values}
        model.requires_grad_(False)

    @property
    def labels(self) -> list[str]:
        return self.classifier.label_names

    @property
    def nbytes(self) -> int:
        """Of the tensors that this task has for itself."""
        chosen = [tensor for entries, values in self.values.values() for tensor in (entries._held, values)]
        return sum(tensor.nbytes for tensor in [*self._own, *chosen])

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
