"""What a training step costs in FLOPs, part by part: forward, input gradients, weight gradients.

Counted are the products of linear layers and of the attention, two FLOPs for a multiplication and its addition.
Embeddings, norms, biases, softmax and the optimizer are negligible beside them and left out. Nothing is taken off for
causal or sliding attention, and nothing added for activations that are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import require
from ...models.linear import is_linear
from ...models.positions import most_positions, real_token
from ...models.roles import linears_by_role
from ...models.structure import bias_names, depths, head_names, norm_names, weights
from ...selection import Selection
from ..scores.frozen import frozen
from ..units.coupling import heads

Shares = float | Mapping[str, float]  # of active tokens: by the name of a linear layer, or one for all


class Cost(NamedTuple):
    """FLOPs of a step.

    Attributes:
        forward: of the forward.
        input_gradients: of the backward, down to the lowest weight that is trained.
        weight_gradients: of the backward, compact where a Selection is trained.
        full: of full fine-tuning's backward, input and weight gradients.
    """

    forward: float
    input_gradients: float
    weight_gradients: float
    full: float

    @property
    def backward(self) -> float:
        """Input and weight gradients."""
        return self.input_gradients + self.weight_gradients

    @property
    def share(self) -> float:
        """The backward over full fine-tuning's."""
        return self.backward / self.full


class _Call(NamedTuple):
    """One product of a linear layer: its name, its weight by id, its place in the forward, the rows it multiplies."""

    layer: str
    weight: int
    place: float
    rows: float
    fixed: bool = False  # the same rows for any batch: DeBERTa's projections of relative positions


class CostModel:
    """The cost of training a model on padded batches of one size.

    Two forwards, of one text and of two, tell which linear layers run, in which order, on how many rows. Layers that read
    the very same tensor, as query, key and value do, have the same place; the input gradient of a layer is needed when
    anything before its place is trained. Where attention and feed-forward part stand side by side, as in Falcon, that is
    a bound in the lowest layer: the one does not need the other's.

    Args:
        model: a transformers model; left as it was.
        batch: texts in a batch.
        length: tokens a text, padding included.

    Raises:
        ValueError: for arguments out of range, weights of more than two dims in the layers, an attention that `find_units`
            does not know, or a model that does not run on such batches.
    """

    def __init__(self, model: nn.Module, batch: int = 32, length: int = 128):
        for name, value in (("batch", batch), ("length", length)):
            if value < 1:
                raise ValueError(f"cost: {name} must be at least 1, got {value}")
        longest = most_positions(model.config) or length
        if length > longest:
            raise ValueError(f"cost: length must be at most the model's {longest} positions, got {length}")
        self._named, self._depth, self.head = weights(model), depths(model), head_names(model)
        for name, parameter in self._named.items():
            if parameter.dim() > 2 and math.isfinite(self._depth[name]):
                raise ValueError(f"cost: the layers' weights must have two dims, got {tuple(parameter.shape)} of {name!r}")
        self._linears = frozenset(linears_by_role(model))
        self._whole = {"biases": bias_names(model), "norms": norm_names(model)}
        calls, self._places = _probe(model, batch, length)
        attention = self._attention(model, calls, length)
        numel = {id(parameter): parameter.numel() for parameter in self._named.values()}
        self._calls = [(c, 2 * c.rows * numel[c.weight], c.rows * attention.get(c.weight, 0)) for c in calls]
        self.forward = sum(linear + attention for _, linear, attention in self._calls)
        every = sum(linear for _, linear, _ in self._calls)
        self.full = Cost(self.forward, self.input_gradients(-math.inf), every, self.input_gradients(-math.inf) + every)

    def _attention(self, model: nn.Module, calls: list[_Call], length: int) -> dict[int, float]:
        """FLOPs of the attention's products, for each row of the output projection, by its weight's id."""
        found = {}
        for coupled in heads(model):
            ((out, index),) = coupled.inputs.items()
            reading = {id(self._named[name]) for name in coupled.outputs}
            positions = sum(call.rows for call in calls if call.fixed and call.weight in reading)
            found[id(self._named[out])] = (4 * length + 2 * positions) * index.numel()  # with keys, values and positions
        return found

    def place(self, name: str) -> float:
        """Where a parameter is first used: the lower, the further the backward must go to train it."""
        unseen = -0.5 if self._depth[name] < 0 else math.inf
        return self._places.get(id(self._named[name]), unseen)

    def depth(self, name: str) -> float:
        """The layer of a parameter, as `structure.depths` numbers them."""
        return self._depth[name]

    def per_entry(self, name: str, shares: Shares = 1.0) -> float:
        """FLOPs of one entry of a weight's gradient: two for each row; none for an embedding, which is looked up."""
        weight = id(self._named[name])
        return sum(2 * call.rows * self._share(call, shares) for call, _, _ in self._calls if call.weight == weight)

    def input_gradients(self, lowest: float, shares: Shares = 1.0) -> float:
        """FLOPs of the input gradients where the lowest place that is trained is `lowest`.

        The attention's four products belong to the output projection, although training values alone needs but one. They take
        every token.
        """
        reached = [call for call in self._calls if call[0].place > lowest]
        return sum(linear * self._share(call, shares) + 2 * attention for call, linear, attention in reached)

    def _share(self, call: _Call, shares: Shares) -> float:
        """Of the call's rows, those whose tokens are active."""
        if call.layer not in self._linears:
            return 1.0
        return shares.get(call.layer, 1.0) if isinstance(shares, Mapping) else shares

    def reach(self, place: float, depth: float, biases: bool = False, norms: bool = False) -> float:
        """The lowest place that `patch` trains, with its biases and norms, where `place` and `depth` are selected lowest."""
        wanted = [name for part, on in (("biases", biases), ("norms", norms)) if on for name in self._whole[part]]
        whole = [*self.head, *(name for name in wanted if self._depth[name] >= depth)]
        return min([place, *map(self.place, whole)])

    def of_head(self) -> float:
        """FLOPs of the head's weight gradients."""
        return sum(self.per_entry(name) * self._named[name].numel() for name in self.head)

    def of(self, selection: Selection, *, biases: bool = False, norms: bool = False, shares: Shares = 1.0) -> Cost:
        """The cost of training a Selection as `patch` does: the head always whole, biases and norms if asked for.

        Args:
            shares: of the tokens of the linear layers in the model's layers, those that take part in the backward, as
                ``handle.active.shares()`` gives them; what it does not name keeps every token. `Cost.full` does too.

        Raises:
            ValueError: if the Selection does not fit the model, or for shares of other layers or out of range.
        """
        self._check(shares)
        lowest = self._lowest(selection, biases, norms)
        compact = sum(self.per_entry(name, shares) * entries.count for name, entries in selection.items())
        return Cost(self.forward, self.input_gradients(lowest, shares), compact + self.of_head(), self.full.full)

    def by_layer(self, selection: Selection, *, biases: bool = False, norms: bool = False) -> dict[str, float]:
        """What of the backward goes by a linear layer's share of active tokens: FLOPs with every token, by the layer's name.

        Raises:
            ValueError: if the Selection does not fit the model.
        """
        lowest = self._lowest(selection, biases, norms)
        count = {id(self._named[name]): entries.count for name, entries in selection.items()}
        found: dict[str, float] = {}
        for call, linear, _ in self._calls:
            if call.layer in self._linears:
                own = linear * (call.place > lowest) + 2 * call.rows * count.get(call.weight, 0)
                found[call.layer] = found.get(call.layer, 0.0) + own
        return found

    def _lowest(self, selection: Selection, biases: bool, norms: bool) -> float:
        """The lowest place that is trained."""
        selection.check(self._named)
        place = min((self.place(name) for name in selection), default=math.inf)
        depth = min((self._depth[name] for name in selection), default=math.inf)
        return self.reach(place, depth, biases, norms)

    def _check(self, shares: Shares) -> None:
        for name, share in (shares if isinstance(shares, Mapping) else {"": shares}).items():
            require(not name or name in self._linears, "cost", "shares", "of linear layers in the model's layers", repr(name))
            require(0 <= share <= 1, "cost", "shares", "in [0, 1]", f"{share} of {name!r}" if name else share)


def step_cost(
    model: nn.Module, selection: Selection | None = None, *, batch: int = 32, length: int = 128, **options: Any
) -> Cost:
    """`CostModel.of` a Selection, or full fine-tuning's cost without one."""
    cost = CostModel(model, batch, length)
    return cost.full if selection is None else cost.of(selection, **options)


def _probe(model: nn.Module, batch: int, length: int) -> tuple[list[_Call], dict[int, float]]:
    """The linear layers' products for batches of this size, and the place where each parameter is first used, by id."""
    with frozen(model), torch.no_grad():
        one, two = (_trace(model, texts, length) for texts in (1, 2))
    if [call[:3] for call in one[0]] != [call[:3] for call in two[0]]:
        raise ValueError(f"cost: the model must run the same linear layers for every batch, got others in {type(model).__name__}")
    pairs = [(a, a.rows, b.rows) for a, b in zip(one[0], two[0], strict=True)]
    return [call._replace(rows=a + (batch - 1) * (b - a), fixed=a == b) for call, a, b in pairs], one[1]


def _trace(model: nn.Module, batch: int, length: int) -> tuple[list[_Call], dict[int, float]]:
    calls: list[_Call] = []
    places: dict[int, float] = {}
    inputs: dict[int, tuple[int, Tensor]] = {}  # holds the tensors, so that no id comes twice

    def before(name: str, module: nn.Module, args: tuple) -> None:
        linear = is_linear(module)
        place = len(inputs) - 0.5
        if linear:
            place = float(inputs.setdefault(id(args[0]), (len(inputs), args[0]))[0])
            calls.append(_Call(name, id(module.weight), place, args[0].numel() / args[0].shape[-1]))
        for parameter in module.parameters(recurse=False):
            places[id(parameter)] = min(place, places.get(id(parameter), math.inf))

    hooks = [module.register_forward_pre_hook(partial(before, name)) for name, module in model.named_modules()]
    try:
        device = next(model.parameters()).device
        ids = torch.full((batch, length), real_token(model.config), device=device)
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"cost: the model must run on {batch} texts of {length} tokens, got {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return calls, places
