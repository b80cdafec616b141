"""Which options have no effect, with which method and beside which other option. They are refused, so that nobody is deceived.

What depends on the data or the model is refused where that is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SCORED = ("select", "density", "backward", "kind", "block", "per")
SELECTING = (*SCORED, "biases", "norms", "selection")
LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")
TOKENS = ("energy", "noise", "cost")
WITHOUT: dict[
    str, tuple[str, ...]
] = {  # method -> options without effect there; replay and merge_tokens are judged by the methods
    "sparse": (*LORA, "mix_layers"),
    "full": (*SELECTING, "layers", *LORA, *TOKENS, "mix_layers"),
    "head": (*SELECTING, "layers", *LORA, *TOKENS),
    "lora": (*SELECTING, *TOKENS, "mix_layers"),
}
BESIDE: dict[str, tuple[tuple[str, ...], str]] = {  # option -> options that it makes idle, and what the message calls it
    "selection": ((*SCORED, "layers"), "with a selection that is given"),
    "validation": (("validation_fraction",), "with validation data"),
}
ALONE: dict[str, tuple[tuple[str, ...], str]] = {  # option -> options that are idle without it
    "merge_tokens": (("merge_by",), "without merge_tokens"),
    "cost": (("shares",), "without cost"),
}
BACKWARD = ("gradient_checkpointing", "recompute_norms")  # of the base model, which the head alone needs for merged tokens only


def idle(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of options whose values change nothing beside the others, each with the reason; those at their defaults included.

    Args:
        options: all of them, by name.
    """
    method = options["method"]
    yield from ((name, f"with the method {method}") for name in WITHOUT.get(method, ()))
    if method == "head" and not options["merge_tokens"]:
        yield from ((name, "with the method head, whose backward ends there") for name in BACKWARD)
    for table, given in ((BESIDE, True), (ALONE, False)):
        for option, (names, reason) in table.items():
            if bool(options[option]) == given:
                yield from ((name, reason) for name in names)
    if options["kind"] != "auto" and "blocks" not in options["kind"].split("+"):
        yield "block", f"with the kind {options['kind']}"
