"""`mix_layers`: what stands above the base model reads a learned mix of all its layers in place of the last one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import require
from ..handles import Undo
from .pooling import current_pooling
from .structure import base_model, head_names

NAME, HOOKS = "scalar_mix", "_clm_mix_hooks"  # the module among a model's parameters; an attribute of the model
LAST = 2.0  # of the last layer's scalar at first, where the others' are 0: of seven states it begins with 0.55


class ScalarMix(nn.Module):
    """``gamma * sum(softmax(scalars)[k] * states[k])``: equation 1 of ELMo (Peters et al. 2018, arXiv 1802.05365).

    As AllenNLP's ScalarMix without layer normalisation, but it begins near the last state.

    Args:
        states: how many there are.
    """

    def __init__(self, states: int):
        super().__init__()
        scalars = torch.zeros(states)
        scalars[-1] = LAST
        self.scalars, self.gamma = nn.Parameter(scalars), nn.Parameter(torch.ones(1))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """One ``(B, T, H)`` of many, in their dtype."""
        expected, found = f"{len(self.scalars)} layers' states, the embedding's among them", len(states)
        require(found == len(self.scalars), "mix_layers", "the base model", f"one that gives {expected}", found)
        weights = self.gamma.float() * self.scalars.float().softmax(0)
        return weights.to(states[0].dtype) @ torch.stack(tuple(states), -2)


def mix_layers(model: nn.Module, function: str = "mix_layers") -> Undo:
    """Lets head and pooling of a classifier read a learned mix of the hidden states of all its layers, see `ScalarMix`.

    The states are the embedding's output and each layer's, the last one after a final norm, as transformers'
    ``output_hidden_states`` has them; a mixing model gives none of them along. The mix stands above the base model, as
    ``scalar_mix`` among the head's parameters, and so in checkpoints and deltas.

    Args:
        model: a text classifier that pools other than ``"native"``, or a token classifier; changed in place.
        function: in whose name errors are raised.

    Returns:
        A handle, whose `restore` takes the mix away.

    Raises:
        ValueError: for another model, or one that mixes its layers already; in the forward, for a base model that gives its
            outputs in a tuple, or states of several sizes.
    """
    pooling, base = current_pooling(model), base_model(model)
    require(bool(head_names(model)), function, "model", "a base model with a head above it", type(model).__name__)
    require(pooling != "native", function, "pooling", "last, mean, max or cls where layers are mixed", repr(pooling))
    require(not mixes_layers(model), function, "model", "one that does not mix its layers yet", "one that does")
    setattr(model, NAME, _mix_of(model))
    hooks = [
        base.register_forward_pre_hook(_ask_for_states, with_kwargs=True),
        base.register_forward_hook(partial(_put_mixed, getattr(model, NAME)), prepend=True),  # before it is pooled
    ]
    setattr(model, HOOKS, hooks)
    return Undo(model, _unmix)


def mixes_layers(model: nn.Module) -> bool:
    """Whether its head reads a mix of all layers."""
    return states_read(model) > 1


def states_read(model: nn.Module) -> int:
    """How many states of the base model its head reads: one, unless it mixes all."""
    mix = getattr(model, NAME, None)
    return len(mix.scalars) if isinstance(mix, ScalarMix) else 1


def mix_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that `mix_layers` would add, by name."""
    return {f"{NAME}.{name}": parameter for name, parameter in _mix_of(model).named_parameters()}


def _mix_of(model: nn.Module) -> ScalarMix:
    like = next(model.parameters())
    with torch.device(like.device):
        return ScalarMix(model.config.get_text_config().num_hidden_layers + 1).to(like.dtype)


def _unmix(model: nn.Module) -> None:
    for hook in model.__dict__.pop(HOOKS):
        hook.remove()
    delattr(model, NAME)


def _ask_for_states(base: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return args, kwargs | {"output_hidden_states": True}


def _put_mixed(mix: ScalarMix, base: nn.Module, args: tuple, output):
    if isinstance(output, tuple):
        raise ValueError(f"mix_layers: return_dict must be True, got outputs of {type(base).__name__} in a tuple")
    states = states_of(output)
    sizes = sorted({state.shape[-1] for state in states})
    require(len(sizes) == 1, "mix_layers", "the base model", "one whose layers' states have one size", f"sizes {sizes}")
    others = {name: value for name, value in output.items() if name != "hidden_states"}
    return type(output)(**others | {"last_hidden_state": mix(states)})


def states_of(output) -> list[Tensor]:
    """The states of a base model's output that are mixed."""
    return [*output.hidden_states[:-1], output.last_hidden_state]
