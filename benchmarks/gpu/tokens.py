"""Active tokens: ``python -m benchmarks.gpu.tokens [--output DIR]`` writes tokens.json.

The ops against the reference, a captured step that keeps active tokens alone, and a linear layer's backward at 20 % of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.measure.bench.timing import Timer, rotated
from clm_kernels.selecting.units.dealing import dealt

from ..common import ratio
from .products import close
from .reach import STEP, TOKENS
from .scale import Scale, line, milliseconds, run_part
from .step import captured, trained

SHARE = 0.2


def rows(scale: Scale) -> Iterator[dict[str, object]]:
    out, inner, tokens = scale.product
    entries = dealt((out, inner), 8, torch.Generator().manual_seed(0)).to(scale.device)
    dy, x, weight = (
        torch.randn(*shape, device=scale.device, dtype=torch.bfloat16) for shape in ((tokens, out), (tokens, inner), (out, inner))
    )
    wrong = differences(dy, x, weight, entries)
    yield line(TOKENS + "ops that differ from the reference", len(wrong), wrong=wrong)

    yield line(STEP + "replays at energy 0.95 that train", replays_that_train(scale))

    active = partial(ops.active_tokens, dy, share=SHARE)
    calls = {
        "every token": lambda: (dy @ weight, ops.weight_grad(dy, x, entries)),
        "active": lambda: backward(dy, x, weight, entries, active),
        "active_tokens": active,
    }
    seconds = rotated(calls, Timer(scale.device), scale.rounds)
    yield line(TOKENS + "backward of every token / at 20 %", ratio(seconds, "every token", "active"), ms=milliseconds(seconds))


def replays_that_train(scale: Scale, replays: int = 3) -> int:
    model, optimizer = trained("active", scale)
    replay, trains = captured(model, optimizer, scale), 0
    for _ in range(replays):
        before = [weight.clone() for weight in model.parameters()]
        replay()
        pairs = zip(before, model.parameters(), strict=True)
        trains += all(weight.isfinite().all() for weight in model.parameters()) and not all(torch.equal(*pair) for pair in pairs)
    return trains


def backward(dy: Tensor, x: Tensor, weight: Tensor, entries: clm.Entries, active: Callable[[], ops.Tokens]) -> tuple[Tensor, ...]:
    tokens = active()
    return ops.input_grad(dy, weight, tokens), ops.weight_grad(dy, x, entries, tokens=tokens)


def differences(dy: Tensor, x: Tensor, weight: Tensor, entries: clm.Entries) -> dict[str, str]:
    """Op -> what is wrong with it."""
    with ops.backend("reference"):
        tokens = ops.active_tokens(dy, share=SHARE)
        kept = torch.zeros_like(dy).index_copy_(0, rows := tokens.index[: int(tokens.count)], dy[rows])
        exact = {"input_grad": kept.double() @ weight.double(), "weight_grad": ops.gather(kept.double().T @ x.double(), entries)}
    found = dict(zip(exact, backward(dy, x, weight, entries, lambda: tokens), strict=True))
    wrong = {}
    for energy in (SHARE, 0.9, 1.0):
        with ops.backend("reference"):
            expected = ops.active_tokens(dy, energy)
        if not all(map(torch.equal, ops.active_tokens(dy, energy), expected)):
            wrong["active_tokens"] = f"other tokens at energy {energy}"
    for op, result in found.items():
        try:
            close(result, exact[op])
        except AssertionError as error:
            wrong[op] = str(error)
    return wrong


if __name__ == "__main__":
    run_part("tokens", __doc__, rows)
