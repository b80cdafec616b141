"""Every op x kind x dtype x model shape: a call, its correctness gate, its baselines, the bytes and FLOP it cannot avoid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ... import ops
from ...optim import SparseAdamW
from ...selection import Entries
from ...values import Values

SHAPES = {  # (out, in) of one feed-forward weight
    "MiniLM": (1536, 384),
    "BERT-base": (3072, 768),
    "ModernBERT-large": (5248, 1024),
    "Qwen3-0.6B": (3072, 1024),
    "Llama-2-7B": (11008, 4096),
}
KINDS = ("rows", "columns", "blocks", "elements")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OPS = ("weight_grad", "embedding_grad", "gather", "scatter_", "masked_grad_", "sensitivity", "adamw_step_")
KINDS_OF = {"embedding_grad": ("rows",), "sensitivity": ("rows", "columns")}  # of the ops that do not take them all
DENSITY = {"rows": 0.02, "columns": 0.02, "blocks": 0.02, "elements": 0.01}
BLOCK = (64, 64)
LENGTH = 128  # tokens of one example, for sensitivity
WEIGHTS = 4  # that one optimizer step covers
SPARSE_ADAM = "SparseAdam (no decay)"  # torch's for embeddings: the rows that a sparse gradient holds


@dataclass
class Case:
    """One call of an op, with what it is measured against.

    Attributes:
        check: raises AssertionError if the op is wrong.
        baselines: what else one would call, by name.
        compiled: makes further ones, by name, that nothing is compiled for until they are asked for and called.
        verify: calls a baseline, given with its name, and raises AssertionError if what it did is wrong.
    """

    op: str
    kind: str
    dtype: str
    shape: str
    run: Callable[[], object]
    check: Callable[[], None]
    bytes: int  # that must move
    flop: int = 0
    tokens: int = 0
    size: tuple[int, int] = (0, 0)  # of the weight
    density: float = 0.0
    units: int = 0  # selected rows, columns, blocks or elements
    baselines: dict[str, Callable[[], object]] = field(default_factory=dict)
    compiled: dict[str, Callable[[], Callable[[], object]]] = field(default_factory=dict)
    verify: Callable[[str, Callable[[], object]], None] = lambda name, call: None

    @property
    def name(self) -> str:
        return f"{self.op} {self.kind} {self.dtype} {self.shape}"

    def implementation(self, device: torch.device) -> str:
        """The one that runs it."""
        work = self.tokens * self.size[0] * self.size[1]
        op = self.op.replace("adamw_step_", "AdamWPlan")
        return ops.chosen(device, op, self.kind, DTYPES[self.dtype], work, self.density, self.units)


def build(
    op: str, kind: str, dtype: str, shape: str, device: torch.device, tokens: int = 1024, density: float | None = None
) -> Case:
    """The case, its tensors on `device`.

    Raises:
        ValueError: for a kind that the op does not take, or a name that is not known.
    """
    if op not in OPS or kind not in KINDS or dtype not in DTYPES or shape not in SHAPES:
        raise ValueError(f"bench: no case {op} {kind} {dtype} {shape}")
    if kind not in KINDS_OF.get(op, KINDS):
        raise ValueError(f"bench: {op} takes {' or '.join(KINDS_OF[op])}, got {kind}")
    size = SHAPES[shape]
    entries = some_entries(kind, size, DENSITY[kind] if density is None else density).to(device)
    make = {
        "weight_grad": _weight_grad, "embedding_grad": _embedding_grad, "sensitivity": _sensitivity, "adamw_step_": _adamw,
    }  # fmt: skip
    arguments = make.get(op, _movement)(op, entries, size, DTYPES[dtype], device, tokens)
    selected = {"density": entries.density, "units": entries.index.numel()}
    return Case(op, kind, dtype, shape, tokens=tokens, size=size, **selected, **arguments)


def some_entries(kind: str, shape: tuple[int, int], density: float) -> Entries:
    block = BLOCK if kind == "blocks" else None
    units = Entries.of(kind, [], shape, block).units
    chosen = torch.randperm(units, generator=torch.Generator().manual_seed(0))[: max(1, round(density * units))]
    return Entries.of(kind, chosen, shape, block)


def _count(entries: Entries) -> int:
    return torch.Size(entries.compact_shape).numel()


def _weight_grad(op: str, entries: Entries, size, dtype, device, tokens) -> dict:
    out, inner = size
    dy, x = (torch.randn(tokens, n, device=device).to(dtype) for n in size)
    selected = entries.index.numel()
    read = {"rows": selected + inner, "columns": out + selected}.get(entries.kind, out + inner)  # columns of dy and x

    def dense():
        return ops.gather(dy.T @ x, entries)

    def verify(name: str, call: Callable[[], object]) -> None:
        close(call(), ops.gather((dy.float().T @ x.float()), entries), dtype, tokens**0.5)

    return {
        "run": lambda: ops.weight_grad(dy, x, entries),
        "check": lambda: verify("ours", lambda: ops.weight_grad(dy, x, entries)),
        "bytes": (tokens * read + _count(entries)) * dtype.itemsize,
        "flop": 2 * tokens * _count(entries),
        "baselines": {"dense + gather": dense},
        "compiled": {"dense + gather, compiled": _lazily(dense, fullgraph=True)},
        "verify": verify,
    }


def _embedding_grad(op: str, entries: Entries, size, dtype, device, tokens) -> dict:
    rows, width = size
    dy, ids = torch.randn(tokens, width, device=device).to(dtype), torch.randint(0, rows, (tokens,), device=device)

    def dense():
        return torch.ops.aten.embedding_dense_backward(dy, ids, rows, -1, False)

    expected = ops.gather(torch.zeros(size, device=device).index_add_(0, ids, dy.float()), entries)
    return {
        "run": lambda: ops.embedding_grad(dy, ids, entries),
        "check": lambda: close(ops.embedding_grad(dy, ids, entries), expected, dtype),
        "bytes": (_count(entries) + int(torch.isin(ids, entries.index).sum()) * width) * dtype.itemsize + ids.nbytes,
        "baselines": {"dense + gather": lambda: ops.gather(dense(), entries)},
        "verify": lambda name, call: close(call(), expected, dtype),
    }


def _sensitivity(op: str, entries: Entries, size, dtype, device, tokens) -> dict:
    length = min(LENGTH, tokens)
    examples, kind = tokens // length, entries.kind
    out, inner = size
    scale = (examples * length * max(size)) ** -0.5  # scores of order 1
    dy = (torch.randn(examples, length, out, device=device) * scale).to(dtype)
    x = torch.randn(examples, length, inner, device=device).to(dtype)
    units, others = (dy, x) if kind == "rows" else (x, dy)

    def dense(dy: Tensor = dy, x: Tensor = x) -> Tensor:
        return torch.bmm(dy.mT, x).float().square().sum((0, 2 if kind == "rows" else 1))

    def gram() -> Tensor:
        return (torch.bmm(torch.bmm(others, others.mT), units) * units).sum((0, 1), dtype=torch.float32)

    return {
        "run": lambda: ops.sensitivity(dy, x, kind),
        "check": lambda: close(ops.sensitivity(dy, x, kind), dense(dy.float(), x.float()), torch.float32),
        "bytes": dy.nbytes + x.nbytes + 4 * units.shape[2],
        "flop": examples * length * (length + 1) * (out + inner),  # of Gram matrices, which are symmetric
        "baselines": {"per-example dense gradient": dense, "gram, three products": gram},
    }


def _movement(op: str, entries: Entries, size, dtype, device, tokens) -> dict:
    dense = torch.randn(size, device=device).to(dtype)
    flat = entries.layout.flat_index(entries.index)
    compact = ops.gather(dense, entries)
    moved = compact.nbytes + entries.index.nbytes
    if op == "gather":
        return {
            "run": lambda: ops.gather(dense, entries),
            "check": lambda: exact(ops.gather(dense, entries), dense.view(-1)[flat]),
            "bytes": moved + compact.nbytes,
            "baselines": {"flat index": lambda: dense.view(-1)[flat]},
        }
    if op == "scatter_":
        return {
            "run": lambda: ops.scatter_(dense, entries, compact),
            "check": lambda: exact(ops.scatter_(torch.zeros_like(dense), entries, compact).view(-1)[flat], compact),
            "bytes": moved + compact.nbytes,
            "baselines": {"flat index": lambda: dense.view(-1).index_put_((flat,), compact)},
        }
    grad = torch.zeros_like(compact)
    return {
        "run": lambda: ops.masked_grad_(grad, dense, entries, 0.0),
        "check": lambda: exact(_accumulated(dense, entries), compact),
        "bytes": moved + 2 * compact.nbytes,
        "baselines": {"flat index": lambda: (grad.add_(dense.view(-1)[flat], alpha=0.0), torch.isfinite(grad).all())},
    }


def _accumulated(dense: Tensor, entries: Entries) -> Tensor:
    grad = torch.zeros(entries.compact_shape, dtype=dense.dtype, device=dense.device)
    ops.masked_grad_(grad, dense, entries)
    return grad


def _adamw(op: str, entries: Entries, size, dtype, device, tokens) -> dict:
    dense = [nn.Parameter((0.02 * torch.randn(size, device=device)).to(dtype)) for _ in range(WEIGHTS)]
    values = [Values(weight.detach().clone(), entries) for weight in dense]
    compact = [nn.Parameter(v.detach().clone()) for v in values]
    for parameter in (*dense, *values, *compact):
        parameter.grad = torch.rand_like(parameter) + 0.5  # where it is 0 the optimizers' ways to use eps differ
    flat = entries.layout.flat_index(entries.index)
    fused, several = torch.optim.AdamW(dense, fused=True), torch.optim.AdamW(compact, foreach=True)

    def in_several_passes():
        several.step()
        for weight, value in zip(dense, compact, strict=True):
            weight.data.view(-1).index_put_((flat,), value.data)

    baselines, changes = {"torch fused": fused.step, "foreach + put": in_several_passes}, {"foreach + put": compact}
    if entries.kind == "rows":
        embeddings = changes[SPARSE_ADAM] = [nn.Parameter(weight.detach()) for weight in dense]  # the same memory
        for embedding in embeddings:
            some = torch.rand(entries.compact_shape, device=device).to(dtype) + 0.5
            embedding.grad = torch.sparse_coo_tensor(
                entries.index.long()[None], some, size, is_coalesced=True, check_invariants=True
            )
        baselines[SPARSE_ADAM] = torch.optim.SparseAdam(embeddings).step

    def verify(name: str, call: Callable[[], object]) -> None:
        """The first weight against a float32 step of torch's; gradients stay the same, so every step is like the first."""
        weight = changes.get(name, dense)[0]
        expected = nn.Parameter(weight.detach().clone().float())
        expected.grad = weight.grad.to_dense().float()
        torch.optim.AdamW([expected], weight_decay=0.0 if name == SPARSE_ADAM else 0.01).step()
        call()
        rounding = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-4}
        torch.testing.assert_close(weight.detach().float(), expected.detach(), **rounding)  # a step is 1e-3
        if weight is compact[0]:
            exact(ops.gather(dense[0].detach(), entries), weight.detach())

    masters = dtype.itemsize == 2
    state = 8 + 8 + (8 if masters else 0)  # both moments and the master: read and written
    touched = 3 if masters else 4  # gradient read, values and dense weight written; values read where there is no master
    return {
        "run": SparseAdamW(values).step,
        "check": lambda: _same_update(size, dtype, device, entries),
        "bytes": WEIGHTS * (_count(entries) * (touched * dtype.itemsize + state) + entries.index.nbytes),
        "flop": 15 * WEIGHTS * _count(entries),
        "baselines": baselines,
        "compiled": {"torch foreach, compiled": _lazily(torch.optim.AdamW(dense, foreach=True).step)},
        "verify": verify,
    }


def _lazily(call: Callable[[], object], **options: object) -> Callable[[], Callable[[], object]]:
    """Makes the compiled `call`, from a clean slate: of closures that share their code torch compiles a few, then none."""

    def make() -> Callable[[], object]:
        torch.compiler.reset()
        return torch.compile(call, **options)

    return make


def _same_update(size, dtype, device, entries: Entries) -> None:
    weight = nn.Parameter(torch.randn(size, device=device).to(dtype))
    value = Values(weight.detach().clone(), entries)
    weight.grad = torch.randn_like(weight)
    value.grad = ops.gather(weight.grad, entries)
    before = value.dense.clone()
    torch.optim.AdamW([weight]).step()
    SparseAdamW([value]).step()
    close(ops.gather(value.dense.detach(), entries), ops.gather(weight.detach(), entries), dtype)
    expected = ops.scatter_(before.detach(), entries, value.detach())
    exact(value.dense.detach(), expected)


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype, size: float = 1.0) -> None:
    """Within some roundings of values of order `size`."""
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(actual.float(), expected.float(), rtol=tolerance, atol=tolerance * size)


def exact(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
