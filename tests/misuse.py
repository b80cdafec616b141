"""A search for misuses that make a kernel leave its tensors: `python tests/misuse.py --count 10000 [--seed 0]`.

Each case is a small model in training, or a single op, and somebody who changes, shrinks, moves, aliases, frees or retypes
tensors between any two steps. It may raise, or be right; it must not crash, and under AddressSanitizer not be reported
(`tests/sanitized.sh`). The case that is running stands in the last line of the output.
"""

from __future__ import annotations

import argparse
import copy
import gc
import pickle
import random
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

import clm_kernels as clm
from clm_kernels import Entries, Selection, ops
from clm_kernels.ops.registry import INTERPRETED
from clm_kernels.values import Values

DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float64, torch.float16)
BACKENDS = ("auto", "auto", "cpu,reference", "reference", "matmul,reference") + ("triton,reference",) * INTERPRETED
KINDS = ("rows", "columns", "blocks", "elements")
Misuse = Callable[[random.Random, Tensor], None]


def _assign(change: Callable[[random.Random, Tensor], Tensor]) -> Misuse:
    def misuse(draw: random.Random, tensor: Tensor) -> None:
        tensor.data = change(draw, tensor.data)

    return misuse


def _resize_storage(draw: random.Random, tensor: Tensor) -> None:
    storage = tensor.untyped_storage()
    for _ in range(draw.randint(1, 2)):  # the second one may get the first one's memory back
        storage.resize_(draw.choice([0, storage.nbytes() // 2, storage.nbytes() * 2]))


def _resize(draw: random.Random, tensor: Tensor) -> None:
    tensor.detach().resize_(draw.choice([(1,), (3, 5), (40, 40), (0,)]))


def _set(draw: random.Random, tensor: Tensor) -> None:
    tensor.detach().set_(torch.zeros(draw.choice([0, 1, 7, 999]), dtype=tensor.dtype))


MISUSES: dict[str, Misuse] = {
    "move": _assign(lambda draw, data: data.clone()),
    "shrink": _assign(lambda draw, data: data[: len(data) // 2] if data.dim() else data),
    "shrink and move": _assign(lambda draw, data: data.flatten()[: max(1, data.numel() // 3)].clone()),
    "flatten": _assign(lambda draw, data: data.flatten()),
    "grow": _assign(lambda draw, data: torch.cat([data, data]) if data.dim() else data),
    "retype": _assign(lambda draw, data: data.to(draw.choice([*DTYPES, torch.int64, torch.complex64]))),
    "reinterpret": _assign(lambda draw, data: data.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[data.itemsize])),
    "transpose": _assign(lambda draw, data: data.mT if data.dim() > 1 else data),
    "expand": _assign(lambda draw, data: data[:1].expand_as(data) if data.dim() else data),
    "offset": _assign(lambda draw, data: torch.zeros(data.numel() + 3, dtype=data.dtype)[3:].view(data.shape)),
    "to meta": _assign(lambda draw, data: data.to("meta")),
    "poison": _assign(lambda draw, data: torch.full_like(data, float("nan"))),
    "resize": _resize,
    "set": _set,
}  # fmt: skip


def some_entries(draw: random.Random, shape: tuple[int, int], kind: str | None = None) -> Entries:
    kind = kind or draw.choice(KINDS)
    block = draw.choice([(4, 2), (2, 4), (1, 1)]) if kind == "blocks" else None
    units = Entries.of(kind, [], shape, block).units
    return Entries.of(kind, draw.sample(range(units), draw.randint(0, units)), shape, block)


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.embedding, self.first, self.second = nn.Embedding(20, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.slanted = nn.Parameter(torch.randn(8, 3).t())  # not contiguous
        self.to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        return (self.second(self.first(self.embedding(ids)).tanh()) @ self.slanted.t()).square().mean()


class Training:
    """A patched model in training: what somebody finds to change between two steps."""

    def __init__(self, draw: random.Random):
        self.draw, self.net = draw, Net(draw.choice(DTYPES))
        chosen = {f"{name}.weight": some_entries(draw, shape) for name, shape in (("first", (12, 8)), ("second", (8, 12)))}
        chosen["embedding.weight"] = some_entries(draw, (20, 8), "rows")
        self.selection = Selection(chosen)
        unpatched = draw.random() < 0.2
        self.handle = None if unpatched else clm.patch(self.net, self.selection, biases=True)
        self.net.slanted.requires_grad_(True)
        options = {"amsgrad": draw.random() < 0.3, "decay_to": draw.choice(["zero", "pretrained"]), "weight_decay": 0.1}
        named, selection = (self.net.named_parameters(), self.selection) if unpatched else (self.net.parameters(), None)
        self.optimizer = clm.SparseAdamW(named, lr=1e-2, selection=selection, **options)

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.net(torch.tensor([[1, 5, 5], [0, 19, 3]])).backward()

    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Everything that can be had, with a word on what it is."""
        found = [("parameter", p) for p in self.parameters()]
        found += [("gradient", p.grad) for p in self.parameters() if p.grad is not None]
        found += [("dense", p.dense) for p in self.parameters() if isinstance(p, Values) and p.dense is not None]
        found += [("state", t) for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        return found

    def change_a_tensor(self) -> str:
        (what, tensor), (_, other) = self.draw.choice(self.tensors()), self.draw.choice(self.tensors())
        how = self.draw.choice([*MISUSES, "alias", "storage"])
        read_by_torch = what == "dense" or (what == "parameter" and not isinstance(tensor, Values))
        if how == "alias":
            tensor.data = other.data
        elif how == "storage":
            if read_by_torch or any(t is not tensor and t.data_ptr() == tensor.data_ptr() for _, t in self.tensors()):
                return "nothing"  # torch's own forward would read beyond it
            _resize_storage(self.draw, tensor)
        else:
            MISUSES[how](self.draw, tensor)
        return f"{how} of a {what}"

    def change_the_state(self) -> str:
        state = self.draw.choice(list(self.optimizer.state.values()) or [{}])
        if not state:
            return "nothing"
        key, other = self.draw.choice(list(state)), self.draw.choice(self.tensors())[1]
        how = self.draw.choice(["delete", "number", "other", "fresh", "clear"])
        if how == "delete":
            del state[key]
        elif how == "clear":
            state.clear()
        else:
            state[key] = {"number": 3, "other": other, "fresh": torch.zeros(self.draw.randint(0, 99))}[how]
        return f"{how} {key}"

    def change_the_selection(self) -> str:
        values = [p for p in self.parameters() if isinstance(p, Values)]
        if not values:
            return "nothing"
        chosen = self.draw.choice(values)
        index = chosen.entries.index
        index.fill_(2**30)
        index.numpy()[:] = -5
        how = self.draw.choice(["index", "dense", "entries", "layer"])
        if how == "dense":
            chosen.dense = self.draw.choice(self.tensors())[1]
        elif how == "entries":
            chosen.entries.index.data.fill_(2**30)
        elif how == "layer" and self.handle is not None and self.handle.patched:
            self.net.first.entries = some_entries(self.draw, self.draw.choice([(12, 8), (40, 40)]))
        return f"changed {how}"

    def change_the_course(self) -> str:
        how = self.draw.choice(["restore", "copy", "pickle", "state", "free", "load", "group", "meta", "half"])
        if how == "restore" and self.handle is not None:
            self.handle.restore()
        elif how in ("copy", "pickle"):
            twin = copy.deepcopy if how == "copy" else (lambda both: pickle.loads(pickle.dumps(both)))
            self.net, self.optimizer = twin((self.net, self.optimizer))
            self.handle = None
        elif how == "state":
            self.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        elif how == "free":
            self.optimizer.state.clear()
            gc.collect()
        elif how == "load":
            self.net.load_state_dict({name: tensor.clone() for name, tensor in self.net.state_dict().items()}, assign=True)
        elif how == "group":
            group = self.draw.choice(self.optimizer.param_groups)
            key = self.draw.choice(["lr", "betas", "eps", "amsgrad", "maximize", "decay_to", "capturable"])
            group[key] = self.draw.choice(["0.1", True, torch.ones(3), (0.5, 0.9), None, float("inf")])
        elif how in ("meta", "half"):
            self.net.to("meta" if how == "meta" else torch.bfloat16)
        return how

    def run(self) -> list[str]:
        done = []
        changes = (self.change_a_tensor, self.change_a_tensor, self.change_the_state, self.change_the_selection,
                   self.change_the_course)  # fmt: skip
        for _ in range(self.draw.randint(2, 4)):
            self.backward()
            if done or self.draw.random() < 0.7:
                done.append(attempt(self.draw.choice(changes)))
            done.append(attempt(self.optimizer.step))
        return done


def single_op(draw: random.Random) -> list[str]:
    """An op by torch's dispatcher, twice, and one of its arguments changed in between."""
    dtype, shape, tokens = draw.choice(DTYPES), (8, 12), draw.randint(0, 9)
    entries = some_entries(draw, shape)
    index, layout = entries.index, list(entries.layout)
    dy, x, dense = (torch.randn(size, dtype=torch.float32).to(dtype) for size in ((tokens, 8), (tokens, 12), shape))
    values = torch.zeros(entries.compact_shape, dtype=dtype)
    active, count = torch.arange(tokens), torch.tensor(draw.randint(0, tokens))
    run = torch.ops.clm_kernels
    calls = {
        "weight_grad": lambda: run.weight_grad(dy, x, index, layout, dtype),
        "active_weight_grad": lambda: run.weight_grad(dy, x, index, layout, dtype, active, count),
        "input_grad": lambda: run.input_grad(dy, dense, active, count),
        "active_tokens": lambda: run.active_tokens(dy, 0.9, False),
        "drawn_tokens": lambda: run.drawn_tokens(
            dy, 0.1, torch.tensor(draw.choice((0.0, 0.5, 1.0, -3.0, float("nan"))), dtype=torch.float64)
        ),
        "embedding_grad": lambda: run.embedding_grad(x, torch.randint(-3, 99, (tokens,)), index, layout, dtype),
        "gather": lambda: run.gather(dense, index, layout),
        "scatter_": lambda: run.scatter_(dense, index, layout, values),
        "masked_grad_": lambda: run.masked_grad_(values, dense, index, layout, 1.0),
        "adamw_step_": lambda: run.adamw_step_(
            [values], [grad], [moments[0]], [moments[1]], [none], [none], [none], [dense], [index], layout, settings, False, False
        ),
    }
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad, moments, none = torch.zeros_like(values), torch.zeros(2, *values.shape, dtype=wide).unbind(), torch.empty(0)
    settings = torch.tensor([[1e-3, 0.9, 0.999, 1e-8, 0.1, 1.0]], dtype=torch.float64)
    call = calls[draw.choice([*calls])]
    done = [attempt(call)]
    for _ in range(2):
        target = draw.choice([index, index, active, count, dy, x, dense, values, grad, moments[0], settings])
        how = draw.choice(["write", "numpy", "data", "layout", "storage", *MISUSES])
        whole = next((numbers for numbers in (active, count) if numbers is target), index)
        if how in ("write", "numpy", "data") and whole.numel() and whole.device.type == "cpu" and not whole.is_floating_point():
            at, number = draw.randrange(whole.numel()), draw.choice([-1, -(2**30), 2**30, 97, 0])
            written = whole.numpy() if how == "numpy" else whole.data if how == "data" else whole
            written.reshape(-1)[at] = number
        elif how == "layout":
            layout[draw.randrange(5)] = draw.choice([0, 1, 2, 3, 4, 7, -1, 5, 1000])
        elif how == "storage":
            attempt(lambda target=target: _resize_storage(draw, target))
        elif how in MISUSES:
            attempt(lambda target=target, how=how: MISUSES[how](draw, target))
        done.append(attempt(call))
    return done


def attempt(action: Callable) -> str:
    """What came of it: what the action says, or the error that it raised."""
    try:
        return str(action())[:40] if action.__name__ != "<lambda>" else "ran"
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return type(error).__name__


def case(seed: int) -> list[str]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    with ops.backend(draw.choice(BACKENDS)):
        return single_op(draw) if draw.random() < 0.4 else attempted(Training(draw).run)


def attempted(run: Callable[[], list[str]]) -> list[str]:
    try:
        return run()
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return [type(error).__name__]  # of torch's own forward or backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    came = Counter()
    for seed in range(asked.seed, asked.seed + asked.count):
        print(f"case {seed}", end="\n" if asked.verbose else "\r", flush=True)
        done = case(seed)
        came.update(done)
        if asked.verbose:
            print("  ", *done, sep=" | ")
    print(f"{asked.count} cases, no crash;", ", ".join(f"{name}: {n}" for name, n in came.most_common(12)))


if __name__ == "__main__":
    main()
