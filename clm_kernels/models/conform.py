"""`conform`: makes a model read texts as it did when a result was trained; `recipe_of`: says how a model reads them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ..handles import Undo
from ..recipe import Recipe
from .attention import bidirectional, bidirectional_layers
from .embedding import resize_embedding
from .heads import task_by_head
from .mixing import mix_layers, mix_weights, mixes_layers
from .pooling import current_pooling, set_pooling
from .structure import weights


def conform(
    model: nn.Module, recipe: Recipe, *, rows: int | None = None, shared: bool = False, function: str = "conform"
) -> Undo:
    """Makes the layers attend and mix, the head pool and the embedding have rows as the recipe says.

    Args:
        model: changed in place; left as it was after an error.
        recipe: of which `bidirectional`, `pooling` and `mix_layers` are followed. No pooling leaves the head alone, as does a model without one.
        rows: of the input embedding; None for as many as it has.
        shared: whether another result is in use in this model, so that its head's pooling must stay.
        function: in whose name errors are raised.

    Returns:
        A handle, whose `restore` undoes all of it.

    Raises:
        ValueError: if the model attends to both sides already, in other layers, or pools otherwise and is shared, or mixes
            its layers where the recipe does not, or the other way round and is shared.
    """
    wanted, pooling = recipe.bidirectional, current_pooling(model)
    now = bidirectional_layers(model)
    repooled = bool(recipe.pooling) and pooling not in (None, recipe.pooling)
    if repooled and shared:
        got = f"{pooling} of the delta that is applied already"
        raise ValueError(f"{function}: the head must pool {recipe.pooling} as in training, got {got}")
    if now and (now.start, now.stop) != wanted:
        trained = f"layers {wanted[0]} to {wanted[1] - 1}" if wanted else "no layer"
        raise ValueError(
            f"{function}: the model must attend to both sides in {trained} as in training, got {now.start} to {now.stop - 1}"
        )
    mixed = mixes_layers(model)
    if mixed != recipe.mix_layers and (mixed or shared):
        expected, got = ("a mix of all layers", "the last layer alone")[:: 1 if recipe.mix_layers else -1]
        raise ValueError(f"{function}: the head must read {expected} as in training, got {got}")
    with ExitStack() as done:
        handles = []
        if wanted and not now:
            handles.append(done.enter_context(bidirectional(model, wanted)))
        if repooled:
            handles.append(done.enter_context(set_pooling(model, recipe.pooling)))
        if recipe.mix_layers and not mixed:
            handles.append(done.enter_context(mix_layers(model, function)))
        if rows is not None:
            handles.append(done.enter_context(resize_embedding(model, rows)))
        done.pop_all()
        return Undo(model, *(call for handle in handles for call in handle.calls))


def conformed_weights(model: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """Every weight under every name, those included that `conform` would add, as they would be at first."""
    return weights(model) | (mix_weights(model) if recipe.mix_layers and not mixes_layers(model) else {})


def recipe_of(model: nn.Module, known: Recipe | None = None) -> Recipe:
    """What `known` says, and of the rest what the model tells: task, base, pooling, mix, attention and dtype."""
    known = known or Recipe()
    both = bidirectional_layers(model)
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), "")
    return replace(
        known,
        task=known.task or task_by_head(model),
        model=known.model or _base_of(model),
        pooling=known.pooling or current_pooling(model) or "",
        mix_layers=known.mix_layers or mixes_layers(model),
        bidirectional=known.bidirectional or ((both.start, both.stop) if both else None),
        dtype=known.dtype or str(dtype).removeprefix("torch."),
    )


def _base_of(model: nn.Module) -> str:
    name = getattr(model, "name_or_path", "")
    return Path(name).absolute().name if name and Path(name).is_dir() else str(name)
