"""`patch`: trains a selection of a model's weights in place, by swapping the classes of its layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..delta import Delta
from ..energy import Energy
from ..errors import refuse
from ..fingerprint import fingerprint
from ..handles import Restorable
from ..models.origin import base_fingerprint
from ..models.structure import bias_names, depths, head_names, norm_names, read_past_forward, weights
from ..selection import Entries, Selection
from ..shards import Divided
from ..values import Values
from .active import Active, ActiveTokens
from .layers import Compact, CompactLayer, known_layer, layer_for, own_class, swapped_class
from .learnt import delta_of

if TYPE_CHECKING:
    from ..extension import Extension
    from ..recipe import Recipe

__all__ = ["Handle", "patch"]


def patch(
    model: nn.Module,
    selection: Selection,
    *,
    biases: bool = False,
    norms: bool = False,
    head: bool | Iterable[str] = True,
    extension: Extension | None = None,
    energy: Energy = 1.0,
    noise: float = 0.0,
    dry: bool = False,
) -> Handle:
    """Makes `model` train the selected entries, its head, and nothing else, in place.

    Every selected weight is frozen; its selected entries become a compact leaf parameter, `Values`, of which
    `SparseAdamW` keeps the dense weight up to date. ``nn.Linear``, ``nn.Embedding`` (rows) and transformers'
    ``Conv1D`` make the compact gradient directly; any other weight's dense gradient is gathered from as soon as
    autograd has made it, and freed. Names, shapes, checkpoints and outputs stay the model's own.

    Args:
        model: changed in place, gradients cleared; on the device where it will be trained, before DDP or ``fully_shard``.
        selection: what to train, by parameter name.
        biases: also train the biases, whole, from the lowest selected layer up.
        norms: also train the normalisation weights, whole, from the lowest selected layer up.
        head: True for the parameters above the base model, or the names of those to train.
        extension: what `extend_embeddings` added to the base, all of which must be selected.
        energy: below 1, the backward of each linear layer in the model's layers keeps only those tokens that hold this part of
            the squared norm of the gradient of its output (`ops.active_tokens`): one number, or one by role, as
            ``{"attention": 0.999, "feed_forward": 0.95}`` (`energies`). 1 is the backward of every token.
        noise: in place of `energy`, in [0, 1): tokens are drawn by chance, and weigh as much more, so that all gradients are in the
            mean what they are; each layer adds at most this part of the squared norm to the expected squared error
            (`ops.drawn_tokens`). 0 is every token. Drawn by torch's generator of the gradient's device.
        dry: take a model on the meta device too, to see what training it would take; without data it has no fingerprints,
            and there is no delta of it.

    Returns:
        Handle with `restore` and `delta`.

    Raises:
        ValueError: if the selection does not fit the model, or a selected weight's class cannot be trained in part.
        RuntimeError: if the model is patched already.
    """
    if any(isinstance(module, Compact) for module in model.modules()):
        raise RuntimeError("patch: the model is patched already; call restore() on its handle first")
    named = weights(model)
    selection.check(named)
    if extension is not None:
        extension.check("patch", selection)
    entries_by_id = _by_parameter(named, selection, dry)
    places = _places(model, entries_by_id)
    head = head_names(model) if head is True else list(head or ())
    if unknown := [name for name in head if name not in named]:
        raise ValueError(f"patch: head must be names of the model's parameters, got {unknown[0]!r}")

    active = ActiveTokens(energy, noise)
    limited = _limited(model, active, places)
    handle = Handle(model, selection, head, active)
    depth = depths(model)
    lowest = min((depth[name] for name in selection), default=float("inf"))
    whole = (bias_names(model) if biases else set()) | (norm_names(model) if norms else set())
    trained_whole = [name for name in named if name in head or (name in whole and depth[name] >= lowest)]
    for parameter in model.parameters():
        parameter.requires_grad_(False).grad = None
    for name in trained_whole:
        if id(named[name]) not in entries_by_id:
            named[name].requires_grad_(True)
            handle.whole[name] = _mark(named[name])
    grown = () if extension is None else (extension.name,)
    handle.base = base_fingerprint(model, {*grown, *(name for name in handle.whole if name in head)})
    for key, entries in entries_by_id.items():
        _swap(handle, places[key], entries)
    _activate(handle, limited)
    if extension is not None:
        handle.extension = extension
        handle.originals[extension.name] = extension.original
    return handle


class Handle(Restorable):
    """What `patch` did to a model, and how to undo it.

    Attributes:
        model: the patched model.
        selection: what is trained of it.
        values: name of each selected weight -> its compact leaf parameter.
        whole: names of the parameters that are trained whole -> fingerprint of what they were.
        head: names of the head's parameters.
        originals: name of each selected weight -> fingerprint of its selected entries before training; of the base's
            whole embedding, if there are new tokens.
        extension: the new tokens, if there are any.
        base: fingerprint of the base before training (`base_fingerprint`).
        active: the layers whose backward keeps active tokens alone, and the share of the tokens that these are.
        sharded: how `shard` has divided it over processes, if it has.
    """

    def __init__(self, model: nn.Module, selection: Selection, head: list[str], active: ActiveTokens):
        self.model, self.selection, self.head, self.active = model, selection, head, active
        self.values: dict[str, Values] = {}
        self.whole: dict[str, str] = {}
        self.originals: dict[str, str] = {}
        self.extension: Extension | None = None
        self.base = ""
        self.sharded: Divided | None = None
        self._classes: list[tuple[Any, type]] = []
        self._requires_grad = {name: parameter.requires_grad for name, parameter in weights(model).items()}

    @property
    def patched(self) -> bool:
        """Whether `restore` is still to come."""
        return not self._restored

    def restore(self) -> None:
        """Gives every module its own class back and removes all hooks; the trained weights stay in place.

        Raises:
            RuntimeError: if a module's forward has been replaced on the instance since, as accelerate's hooks do.
        """
        super().restore()

    def _undo(self) -> None:
        for module, original in self._classes:
            forward = module.__dict__.get("forward")
            if getattr(forward, "__func__", None) is type(module).forward:
                del module.forward  # what such a hook leaves behind
            elif forward is not None:
                raise RuntimeError(
                    f"restore: the forward of a {original.__name__} has been replaced on the instance; remove that hook first"
                )
        if self.sharded is not None:
            self.sharded.release()
        for module, original in self._classes:
            for name in module.compact.values():
                module._parameters.pop(name).release()
            module.__dict__.pop("_entries", None)
            module.__dict__.pop("_active", None)
            del module.compact
            module.__class__ = own_class(module, original)
        self._classes.clear()
        for name, parameter in weights(self.model).items():
            parameter.requires_grad_(self._requires_grad.get(name, parameter.requires_grad))

    def delta(self, labels: Iterable[str] | None = None, recipe: Recipe | None = None) -> Delta:
        """Everything that was trained, as a `Delta`: what the model holds now, before or after `restore`.

        Of a model that `shard` has divided all processes must call it, and each gets it whole.

        Args:
            labels: label names in order; from the model's config by default.
            recipe: how it was made; what that does not say is taken from the model (`recipe_of`).

        Raises:
            RuntimeError: if compact values have been trained that never reached the model.
        """
        return delta_of(self, labels, recipe)


def _mark(tensor: Tensor) -> str:
    return "" if tensor.is_meta else fingerprint(tensor)


def _by_parameter(named: dict[str, Tensor], selection: Selection, dry: bool) -> dict[int, Entries]:
    """Entries by the id of their weight, so that tied weights are trained once."""
    found: dict[int, Entries] = {}
    for name, entries in selection.items():
        parameter = named[name]
        if id(parameter) in found and found[id(parameter)] != entries:
            raise ValueError(f"patch: {name!r} is tied to another selected weight and must have its entries")
        if type(parameter) is not nn.Parameter or not parameter.is_floating_point():
            raise ValueError(
                f"patch: {name!r} must be a plain floating-point parameter, got {type(parameter).__name__} of {parameter.dtype}"
            )
        if (parameter.is_meta and not dry) or not parameter.is_contiguous():
            raise ValueError(
                f"patch: {name!r} must be a contiguous tensor in memory, got {parameter.device}, strides {parameter.stride()}"
            )
        found[id(parameter)] = entries
    return found


def _places(model: nn.Module, wanted: dict[int, Entries]) -> dict[int, list[tuple[str, nn.Module, str, type | None]]]:
    """Where each wanted parameter is used: full name, module, parameter's name there, compact class if one covers it."""
    read_directly = read_past_forward(model)
    places: dict[int, list] = {key: [] for key in wanted}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in wanted:
                full = f"{prefix}.{name}" if prefix else name
                _refuse(full, module)
                core = None if id(module) in read_directly else layer_for(module, name, wanted[id(parameter)])
                places[id(parameter)].append((full, module, name, core))
    return places


def _refuse(name: str, module: nn.Module) -> None:
    original = type(module)
    if is_parametrized(module):
        raise ValueError(f"patch: {name!r} must not be parametrized, got {original.__name__}; remove_parametrizations first")
    if "forward" in module.__dict__:
        raise ValueError(
            f"patch: the forward of {original.__name__} at {name!r} has been replaced on the instance; patch before adding such hooks"
        )
    if getattr(module, "max_norm", None) is not None:
        raise ValueError(f"patch: {name!r} must not renormalise its weight in the forward, got {original.__name__} with max_norm")
    if isinstance(module, nn.Embedding) and module.sparse:
        raise ValueError(f"patch: {name!r} must have dense gradients, got {original.__name__} with sparse=True")
    if taken := [attribute for attribute in ("compact", "entries", "values") if hasattr(module, attribute)]:
        raise ValueError(f"patch: {name!r} must belong to a module without an attribute {taken[0]!r}, got {original.__name__}")


def _swap(handle: Handle, places: list[tuple[str, Any, str, type | None]], entries: Entries) -> None:
    _, first, parameter, _ = places[0]
    dense = getattr(first, parameter)
    values = Values(dense, entries.to(dense.device))
    original_values = _mark(values)
    covered = all(core is not None for *_, core in places)
    for name, module, parameter, core in places:
        if not isinstance(module, Compact):
            original: Any = type(module)
            module.__class__ = swapped_class(original, core if covered else Compact)
            module.compact = {}
            handle._classes.append((module, original))
        module.compact[parameter] = "values" if parameter == "weight" else f"{parameter}_values"
        module.register_parameter(module.compact[parameter], values)
        if isinstance(module, CompactLayer):
            module._entries = values.entries
        handle.values[name], handle.originals[name] = values, original_values
    if not covered:
        values.take_dense_gradient()


def _limited(
    model: nn.Module, active: ActiveTokens, places: dict[int, list[tuple[str, nn.Module, str, type | None]]]
) -> list[tuple[Any, type, Active]]:
    """The linear layers that are to keep active tokens alone, the frozen ones too, each with the class that does so."""
    uncovered = {id(module) for used in places.values() if not all(core for *_, core in used) for _, module, *_ in used}
    unknown = uncovered | read_past_forward(model)
    found = []
    for name, module, layer in active.take(model):
        _refuse(f"{name}.weight", module)
        core = None if id(module) in unknown else known_layer(module)
        if core is None:
            option, every = active.option
            expected = f"{every} for a model with {name!r}, a {type(module).__name__} whose backward nobody here knows"
            refuse("patch", option, expected, layer.part)
        found.append((module, core, layer))
    return found


def _activate(handle: Handle, limited: list[tuple[Any, type, Active]]) -> None:
    for module, core, layer in limited:
        if not isinstance(module, Compact):
            original: Any = type(module)
            module.__class__ = swapped_class(original, core)
            module.compact = {}
            handle._classes.append((module, original))
        module._active = layer
