"""`adamw_step_` on 110 M entries and `weight_grad` on 768 x 3072, beside what torch has for them."""

from __future__ import annotations

from collections.abc import Callable

import torch

import clm_kernels as clm
from clm_kernels import ops
from clm_kernels.ops.parameters import Parameters
from clm_kernels.ops.registry import implementation

from .common import interleaved, keep, medians, ratio, row

BERT = [(768, 768)] * 48 + [(3072, 768)] * 12 + [(768, 3072)] * 12 + [(32000, 768)]  # 110 M entries
LARGE = [(2560, 3072)] * 14  # 110 M entries as well
REACH = {"adamw_step_, rows": 60.0, "adamw_step_, elements": 7.0}


def adamw(rounds: int) -> list[dict[str, object]]:
    """The op on few large weights and on BERT-base's many, its data in the caches as far as it fits, or not at all."""
    _check_adamw()
    rows = []
    for name, shapes in (("14 weights", LARGE), ("BERT-base", BERT)):
        variants = adamw_variants(shapes)
        for ahead in (3, 0):
            seconds = interleaved(variants, rounds, ahead=ahead)
            for kind in list(variants)[1:]:
                faster = ratio(seconds, "torch fused, all entries", kind)
                reach = REACH.get(kind) if shapes is LARGE and ahead else None
                caches = "warm" if ahead else "cold"
                what = f"{kind}: 1 % of 110 M fp32 in {name}, caches {caches}: torch fused over all / ours"
                wanted = f">= {reach:g}" if reach else "not set"
                rows.append(row(what, faster, wanted, faster >= (reach or 0.0), milliseconds=medians(seconds)))
    return rows


def adamw_variants(shapes: list[tuple[int, int]]) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    dense = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
    for parameter in dense:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    variants = {"torch fused, all entries": torch.optim.AdamW(dense, lr=1e-5, fused=True).step}
    for kind in ("rows", "columns", "elements"):
        values = []
        for weight in dense:
            shape = tuple(weight.shape)
            units = clm.Entries.of(kind, [], shape).units
            entries = clm.Entries.of(kind, torch.randperm(units)[: round(0.01 * units)], shape)
            values.append(clm.Values(weight.detach().clone(), entries))
            values[-1].grad = torch.randn_like(values[-1]) * 1e-3
        optimizer = clm.SparseAdamW(values, lr=1e-5)
        variants[f"SparseAdamW, {kind}"] = optimizer.step
        variants[f"adamw_step_, {kind}"] = prepared_op(optimizer, values)
    return variants


def prepared_op(optimizer: clm.SparseAdamW, values: list[clm.Values]) -> Callable[[], object]:
    """`adamw_step_` alone on the optimizer's tensors, as it runs there from the second step on."""
    optimizer.step()
    moments = ([optimizer.state[v][name] for v in values] for name in ("exp_avg", "exp_avg_sq"))
    none = [torch.empty(0)] * len(values)
    layouts = [number for v in values for number in v.entries.layout]
    denses, indices = [v.dense for v in values], [v.entries.index for v in values]
    parameters = Parameters(values, *moments, none, none, none, denses, indices, layouts, False, False)
    plan = implementation("AdamWPlan", values[0].device)(parameters)
    settings = torch.tensor([[1e-5, 0.9, 0.999, 1e-8, 0.01, 2.0]] * len(values), dtype=torch.float64)
    grads = [v.grad for v in values]
    return lambda: plan(grads, settings)


def _check_adamw() -> None:
    weight = torch.nn.Parameter(torch.randn(64, 64))
    ours = clm.Values(weight.detach().clone(), clm.Entries.everything("rows", (64, 64)))
    weight.grad = torch.randn(64, 64)
    ours.grad = weight.grad.clone()
    torch.optim.AdamW([weight], fused=True).step()
    clm.SparseAdamW([ours]).step()
    torch.testing.assert_close(ours.dense, weight.detach())


def weight_grad(rounds: int) -> list[dict[str, object]]:
    torch.manual_seed(0)
    out, inner, tokens = 768, 3072, 1024
    dy, x = torch.randn(tokens, out), torch.randn(tokens, inner)
    chosen = {
        "rows": clm.Entries.of("rows", torch.randperm(out)[: round(0.02 * out)], (out, inner)),
        "columns": clm.Entries.of("columns", torch.randperm(inner)[: round(0.02 * inner)], (out, inner)),
        "blocks": clm.Entries.of("blocks", torch.randperm(12 * 48)[: round(0.02 * 12 * 48)], (out, inner), (64, 64)),
        "elements": clm.Entries.of("elements", torch.randperm(out * inner)[: round(0.01 * out * inner)], (out, inner)),
    }
    variants = {"dense product": lambda: dy.T @ x}
    for kind, entries in chosen.items():
        torch.testing.assert_close(ops.weight_grad(dy, x, entries), ops.gather(dy.T @ x, entries), rtol=1e-3, atol=1e-3)
        variants[kind] = lambda entries=entries: ops.weight_grad(dy, x, entries)
    rows_index, columns_index = chosen["rows"].index, chosen["columns"].index
    variants["torch, sliced rows"] = lambda: dy.index_select(1, rows_index).T @ x
    variants["torch, sliced columns"] = lambda: dy.T @ x.index_select(1, columns_index)
    seconds = interleaved(variants, rounds, warm_up=10)
    reach = {"rows": 20.0, "columns": 20.0, "elements": 5.0}
    lines = []
    for kind, entries in chosen.items():
        faster = ratio(seconds, "dense product", kind)
        wanted = f">= {reach[kind]:g}" if kind in reach else "not set"
        what = f"weight_grad 768x3072, T=1024, {entries.density:.0%} {kind}: dense product / ours"
        lines.append(row(what, faster, wanted, faster >= reach.get(kind, 0.0), milliseconds=medians(seconds)))
    return lines


def main(rounds: int = 60) -> list[dict[str, object]]:
    rows = adamw(max(15, rounds // 3)) + weight_grad(2 * rounds)
    keep("kernels", rows)
    return rows


if __name__ == "__main__":
    main()
