"""Active tokens: their ops, and training steps at a fifth of the tokens, by processor time. ``python -m benchmarks active``."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.measure.bench.cases import close
from clm_kernels.ops.schemas import direct
from clm_kernels.selecting.units.control import random_selection
from clm_kernels.selecting.units.dealing import dealt

from .common import interleaved, keep, medians, ratio, row
from .dealt import BUILDS, GROUPS, SHAPES, full_step, model_of, told
from .step import step as step_of

SHARE = 0.2
SIZES = ((768, 3072), (3072, 768), (768, 768), (384, 1536), (384, 384))  # out, in
TOKENS = (128, 512)
EVERY, ACTIVE, CHOICE = "every token", "a fifth of the tokens", "their choice"


def gradients(rounds: int) -> list[dict[str, object]]:
    """Input and weight gradient of a layer whose weight has eight dealt groups selected."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for size in SIZES:
            for tokens in TOKENS:
                with told(1) as told_of:
                    seconds = interleaved(_gradients(size, tokens, dtype), rounds, warm_up=3, clock=time.process_time)
                name = f"{size[0]} x {size[1]}, T = {tokens}, {str(dtype).removeprefix('torch.')}"
                details = {"milliseconds": medians(seconds)} | told_of
                asked = (size, tokens, dtype) == (SIZES[0], 512, torch.float32)
                faster = ratio(seconds, EVERY, ACTIVE)
                reach, met = (">= 3.5", faster >= 3.5) if asked else ("not set", True)
                rows.append(row(f"input_grad + weight_grad, {name}: every token / a fifth", faster, reach, met, **details))
                part = ratio(seconds, CHOICE, ACTIVE) / (1 + ratio(seconds, CHOICE, ACTIVE))
                reach, met = ("<= 0.05", part <= 0.05) if asked else ("not set", True)
                rows.append(row(f"active_tokens, {name}: part of the backward", part, reach, met, **details))
    return rows


def _gradients(size: tuple[int, int], tokens: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    dy, x = (torch.randn(tokens, n, generator=generator).to(dtype) for n in size)
    weight = torch.randn(size, generator=generator).to(dtype)
    entries = dealt(size, GROUPS, generator)
    chosen = ops.active_tokens(dy, share=SHARE)
    active = chosen.index[: chosen.count]
    close(ops.input_grad(dy, weight, chosen)[active], dy[active].float() @ weight.float(), dtype, size[0] ** 0.5)
    expected = ops.gather(dy[active].float().T @ x[active].float(), entries)
    close(ops.weight_grad(dy, x, entries, tokens=chosen), expected, dtype, tokens**0.5)
    input_grad, weight_grad = direct("input_grad", dy), direct("weight_grad", dy)
    rest = entries.index, entries.layout, dtype

    def every() -> None:
        dy @ weight
        weight_grad(dy, x, *rest)

    def of_active() -> None:
        input_grad(dy, weight, *chosen)
        weight_grad(dy, x, *rest, *chosen)

    return {EVERY: every, ACTIVE: of_active, CHOICE: lambda: direct("active_tokens", dy)(dy, 0.99, False)}


def steps(rounds: int) -> list[dict[str, object]]:
    """A training step, as `train` patches a model, beside full fine-tuning's, the forward pass, and biases alone."""
    rows = []
    for name, (sizes, batch) in SHAPES.items():
        seconds: dict[str, list[float]] = {}
        with told(1) as told_of:
            for _ in range(BUILDS):
                made = {"full": full_step(sizes), "biases": _biases(sizes), EVERY: _ours(sizes), ACTIVE: _ours(sizes, SHARE)}
                calls = {way: step_of(*pair, *batch) for way, pair in made.items()} | {"forward": _forward(sizes, batch)}
                for way, values in interleaved(calls, rounds // BUILDS, 2, clock=time.process_time).items():
                    seconds.setdefault(way, []).extend(values)
        details = {"milliseconds": medians(seconds)} | told_of
        for way in (ACTIVE, EVERY, "biases", "forward"):
            part = ratio(seconds, way, "full")
            asked = way == ACTIVE and name == "BERT-base"
            reach, met = ("<= 0.45", part <= 0.45) if asked else ("not set", True)
            rows.append(row(f"step of {name}'s shape, one thread: {way} / full", part, reach, met, **details))
    return rows


def _ours(sizes: tuple[int, int, int, int], share: float | None = None):
    model = model_of(sizes)
    selection = random_selection(model, density=1 / GROUPS, kind="groups")
    handle = clm.patch(model, selection, biases=True, norms=True, energy=1.0 if share is None else 0.5)
    handle.active.choose = lambda dy, energy: direct("active_tokens", dy)(dy, share, True)  # whatever the random model's energy
    return model, clm.SparseAdamW(model.parameters(), lr=1e-5)


def _biases(sizes: tuple[int, int, int, int]):
    model = model_of(sizes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or name.startswith("classifier"))
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)


def _forward(sizes: tuple[int, int, int, int], batch: tuple[int, int]) -> Callable[[], object]:
    model, ids = model_of(sizes), torch.randint(1000, 30000, batch, generator=torch.Generator().manual_seed(1))
    return torch.no_grad()(lambda: model(input_ids=ids))


def main(rounds: int = 15) -> list[dict[str, object]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = steps(rounds) + gradients(2 * rounds)
    torch.set_num_threads(before)
    keep("active", rows)
    return rows


if __name__ == "__main__":
    main()
