"""No caller can make a kernel read or write where it must not; `tests/sanitized.sh` runs this under AddressSanitizer.

What a caller changes between two steps takes effect as in torch, or raises before anything is written.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import bits, entries, same
from oracles import KINDS
from torch import nn

import clm_kernels as clm
from clm_kernels import Entries, Selection, ops
from clm_kernels.ops.layout import Layout

every_kind = pytest.mark.parametrize("kind", KINDS)
SHAPE = (8, 12)


def patched(kind="columns", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 12))
    chosen = Selection({"0.weight": entries((8, 12), kind, 0.4), "2.weight": entries((12, 8), kind, 0.4)})
    handle = clm.patch(model, chosen, biases=True)
    return model, handle, clm.SparseAdamW(model.parameters(), lr=1e-2, **options)


def backward(model, seed=0):
    model.zero_grad()
    x = torch.randn(5, 12, generator=torch.Generator("cpu").manual_seed(seed)).to(next(model.parameters()).device)
    model(x).square().sum().backward()


def step(model, optimizer, seed=0):
    backward(model, seed)
    optimizer.step()


class TestBetweenSteps:
    @every_kind
    @pytest.mark.parametrize("what", ["state", "values", "dense", "bias"])
    def test_what_has_moved_is_found_where_it_is(self, backend, kind, what):
        """`tensor.data = tensor.data.clone()`, as is done to move an optimizer to another device; the old memory is freed."""
        results = []
        for moves in (False, True):
            model, handle, optimizer = patched(kind)
            for seed in range(3):
                step(model, optimizer, seed)
                tensors = {
                    "state": [t for state in optimizer.state.values() for t in state.values()],
                    "values": list(handle.values.values()),
                    "dense": [model[0].weight, model[2].weight],
                    "bias": [model[0].bias],
                }[what]
                for tensor in tensors if moves else ():
                    tensor.data = tensor.data.clone()
            results.append(bits(model))
        assert same(*results)

    @every_kind
    @pytest.mark.parametrize("what", ["values", "grad", "exp_avg", "exp_avg_sq", "dense", "bias"])
    def test_what_has_shrunk_is_refused(self, backend, kind, what):
        model, handle, optimizer = patched(kind)
        step(model, optimizer)
        backward(model, 1)
        values = handle.values["2.weight"]
        tensor = {"values": values, "grad": values.grad, "dense": model[2].weight, "bias": model[2].bias}.get(what)
        tensor = optimizer.state[values][what] if tensor is None else tensor
        before = bits(model)
        tensor.data = tensor.data.flatten()[:2]  # at the same address
        with pytest.raises((ValueError, RuntimeError), match=r"must be|must have"):
            optimizer.step()
        assert all(torch.equal(before[name], now) for name, now in bits(model).items() if now.shape == before[name].shape)

    @pytest.mark.parametrize("what", ["exp_avg", "exp_avg_sq"])
    @pytest.mark.parametrize("size", [0, 8])
    def test_a_storage_that_has_shrunk_is_refused(self, backend, what, size):
        """The tensor says nothing of it."""
        model, handle, optimizer = patched()
        step(model, optimizer)
        backward(model, 1)
        optimizer.state[handle.values["0.weight"]][what].untyped_storage().resize_(size)
        with pytest.raises(ValueError, match=rf"must be within its storage, \d+ bytes, got a storage of {size}"):
            optimizer.step()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
    def test_what_has_another_type_is_not_read_as_the_former(self, backend, dtype):
        model, handle, optimizer = patched()
        step(model, optimizer)
        backward(model, 1)
        state = optimizer.state[handle.values["0.weight"]]
        state["exp_avg"].data = state["exp_avg"].data.to(dtype)
        try:
            optimizer.step()
        except ValueError as error:
            assert "exp_avgs" in str(error) or "moments" in str(error)
        assert all(tensor.isfinite().all() for tensor in bits(model).values())

    def test_state_that_is_replaced_counts(self, backend):
        """As in torch's AdamW: the moments and the step counter are what the state holds."""
        weights = []
        for make in (torch.optim.AdamW, clm.SparseAdamW):
            torch.manual_seed(0)
            model = nn.Linear(12, 8)
            optimizer = make(model.parameters(), lr=1e-2)
            for seed, key in enumerate(["exp_avg", "exp_avg_sq", "step", "step"]):
                step(model, optimizer, seed)
                state = optimizer.state[model.weight]
                state[key] = torch.full_like(state[key], 3.0)
            step(model, optimizer, 9)
            weights.append(bits(model))
        torch.testing.assert_close(*weights)

    def test_after_restore_a_step_says_why_it_cannot(self, backend):
        model, handle, optimizer = patched()
        step(model, optimizer)
        backward(model, 1)
        handle.restore()
        before = bits(model)
        with pytest.raises(RuntimeError, match=r"SparseAdamW: the model has been restored.*patch it again"):
            optimizer.step()
        assert same(bits(model), before)

    def test_a_layer_refuses_a_weight_of_another_shape(self):
        model, _, _ = patched()
        model[2].weight.data = torch.zeros(40, 8)
        with pytest.raises(RuntimeError, match=r"weight must have shape \(12, 8\) as when it was patched, got \(40, 8\)"):
            model(torch.zeros(2, 12))

    def test_a_number_must_be_one(self, backend):
        model, _, optimizer = patched()
        optimizer.param_groups[0]["lr"] = "0.1"
        with pytest.raises(ValueError, match=r"SparseAdamW: lr must be a number or a tensor of one element, got '0.1'"):
            step(model, optimizer)

    def test_a_patched_model_is_not_moved_to_the_meta_device(self):
        """torch would put new parameters in the place of those that the optimizer has."""
        model, handle, optimizer = patched()
        step(model, optimizer)
        with pytest.raises(
            RuntimeError, match=r"CompactLinear: a patched layer can be moved only .* restore\(\) the handle first"
        ):
            model.to("meta")
        step(model, optimizer)
        handle.restore()
        assert all(parameter.is_meta for parameter in model.to("meta").parameters())


class TestIndices:
    @every_kind
    def test_entries_own_their_index(self, backend, kind):
        own = entries(SHAPE, kind)
        given = own.index
        made = Entries(kind, given, SHAPE, own.block).to(torch.get_default_device())
        dense = torch.randn(SHAPE)
        before = ops.gather(dense, made)
        for index in (given, made.index, made.index.data):
            index.fill_(2**30)
        made.index.cpu().numpy()[:] = -7
        assert torch.equal(ops.gather(dense, made), before)
        with pytest.raises(AttributeError, match=r"Entries: index cannot be changed"):
            made.index = given
        assert copy.deepcopy(made) == made

    @every_kind
    @pytest.mark.parametrize("wrong", [-1, 2**30, "order", "twice"])
    def test_ops_by_torch_s_dispatcher_check_the_index(self, backend, kind, wrong):
        chosen = entries(SHAPE, kind).to(torch.get_default_device())
        index, layout = chosen.index, chosen.layout
        arguments = self._arguments(chosen)
        if wrong == "order":
            index = index.flip(0)
        elif wrong == "twice":
            index[1] = index[0]
        else:
            index[0 if wrong < 0 else -1] = wrong
        for name, call in arguments.items():
            with pytest.raises(ValueError, match=rf"{name}.*: index must be (sorted and unique|in \[0, \d+\))"):
                call(index, layout)

    @every_kind
    def test_an_index_that_is_changed_later_is_checked_anew_or_not_read(self, backend, kind):
        chosen = entries(SHAPE, kind).to(torch.get_default_device())
        index, layout = chosen.index, chosen.layout
        dense = torch.randn(SHAPE)
        first = torch.ops.clm_kernels.gather(dense, index, layout)
        index.data.fill_(2**30)  # which torch's version counter does not see
        assert torch.equal(torch.ops.clm_kernels.gather(dense, index, layout), first)
        index.fill_(2**30)
        with pytest.raises(ValueError, match="gather: index must be"):
            torch.ops.clm_kernels.gather(dense, index, layout)

    @pytest.mark.parametrize(
        "layout", [(7, 8, 12, 0, 0), (4, 8, 12, 0, 0), (2, 8, 12, 3, 2), (2, 8, 12, 0, 0), (0, -8, 12, 0, 0), (0, 8)]
    )
    def test_layouts_are_checked(self, backend, layout):
        chosen = entries(SHAPE, "rows").to(torch.get_default_device())
        for name, call in self._arguments(chosen).items():
            if name == "adamw_step_" and layout[0] == 4:
                continue  # where it stands for a parameter that is trained whole
            with pytest.raises(ValueError, match=rf"{name}.*: (layout must be a kind|layouts must be 5 ints)"):
                call(chosen.index, layout)

    def _arguments(self, chosen):
        """Calls of the raw ops that would be right with the index and the layout of `chosen`."""
        run = torch.ops.clm_kernels
        dy, x, dense, values = torch.randn(5, 8), torch.randn(5, 12), torch.randn(SHAPE), torch.zeros(chosen.compact_shape)
        moments, none = [torch.zeros_like(values) for _ in range(3)], torch.empty(0)
        settings = torch.tensor([[1e-3, 0.9, 0.999, 1e-8, 0.1, 1.0]], dtype=torch.float64, device="cpu")
        lists = [[t] for t in (values.clone(), *moments, none, none, none, dense.clone())]
        calls = {
            "weight_grad": lambda index, layout: run.weight_grad(dy, x, index, layout, torch.float32),
            "gather": lambda index, layout: run.gather(dense, index, layout),
            "scatter_": lambda index, layout: run.scatter_(dense, index, layout, values),
            "masked_grad_": lambda index, layout: run.masked_grad_(values, dense, index, layout, 1.0),
            "adamw_step_": lambda index, layout: run.adamw_step_(*lists, [index], layout, settings, False, False),
        }
        for call in calls.values():
            call(chosen.index, chosen.layout)
        return calls


def test_a_layout_is_a_known_kind_and_a_block_that_divides():
    assert Layout.checked("op", [2, 8, 12, 4, 3]) == Layout.of("blocks", (8, 12), (4, 3))
    assert Layout.checked("op", [4, 0, 0, 0, 0], dense=True).kind == 4


@pytest.mark.parametrize("interpret", ["0", "1"])
def test_a_search_for_misuses_finds_none(interpret):
    """As `tests/misuse.py` says; thousands more by hand, and under the sanitizers."""
    script, count = Path(__file__).parent / "misuse.py", "300" if interpret == "0" else "40"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": interpret}
    command = [sys.executable, str(script), "--count", count, "--seed", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and f"{count} cases, no crash" in done.stdout, (done.stdout[-300:], done.stderr[-2000:])
