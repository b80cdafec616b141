"""No caller can make a kernel read or write where it must not; `tests/sanitized.sh` runs this under AddressSanitizer.

What a caller changes between two steps takes effect as in torch, or raises before a weight or a moment is written.
"""

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from models import bits, entries, same
from owned_entries import every_kind, patched
from places import ROOT
from torch import nn

import clm_kernels as clm
from clm_kernels import Entries, Selection, ops
from clm_kernels.ops.layout import Layout

SHAPE = (8, 12)


def backward(model, seed=0):
    model.zero_grad()
    x = torch.randn(5, 12, generator=torch.Generator("cpu").manual_seed(seed)).to(next(model.parameters()))
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

    def test_maxima_of_another_type_than_the_moments(self, backend):
        """Triton wrote float32 into them, whatever they were."""
        model, _, optimizer = patched(amsgrad=True)
        step(model, optimizer)
        backward(model, 1)
        for state in optimizer.state.values():
            state["max_exp_avg_sq"].data = state["max_exp_avg_sq"].half()
        if ops.chosen(model[0].weight.device) != "triton":
            optimizer.step()
            return
        with pytest.raises(ValueError, match=r"moments must have one dtype, got torch\.float32 and torch\.float16"):
            optimizer.step()

    @pytest.mark.parametrize("wrong", [torch.empty(0), torch.ones(12)])
    def test_a_loss_scale_of_another_size_is_refused_at_every_step(self, backend, wrong):
        model, _, optimizer = patched()
        for scale in (torch.ones(()), torch.ones(()), wrong):
            optimizer.grad_scale, optimizer.found_inf = scale, torch.zeros(())
            backward(model)
            if scale is not wrong:
                optimizer.step()
        with pytest.raises(ValueError, match="grad_scale must be a tensor of one element"):
            optimizer.step()

    @pytest.mark.parametrize("name", ["master", "pretrained"])
    def test_a_state_that_has_been_emptied_is_not_taken_for_none(self, backend, name):
        model, handle, optimizer = patched(decay_to="pretrained", dtype=torch.bfloat16)
        step(model, optimizer)
        backward(model, 1)
        optimizer.state[handle.values["0.weight"]][name] = torch.empty(0)
        with pytest.raises(ValueError, match=rf"SparseAdamW: state '{name}' must be of the parameter's shape, got \(0,\)"):
            optimizer.step()

    def test_threads_that_step_at_once_read_gradients_of_their_own(self):
        """The C++ plan kept one thread's addresses, which another overwrote, and freed; seen by the sanitizer alone."""
        parameter = nn.Parameter(torch.randn(200_000))
        optimizer = clm.SparseAdamW([parameter])

        def train():
            for _ in range(60):
                parameter.grad = torch.randn_like(parameter)
                optimizer.step()

        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(train) for _ in range(4)]:
                done.result()
        assert parameter.isfinite().all()

    def test_a_learning_rate_is_one_number(self, backend):
        """One for each parameter was taken for the rates of these."""
        model, _, optimizer = patched()
        backward(model)
        optimizer.param_groups[0]["lr"] = torch.ones(4)
        assert sum(p.grad is not None for p in optimizer.param_groups[0]["params"]) == 4
        with pytest.raises(ValueError, match=r"lr must be a number or a tensor of one element, got shape \(4,\)"):
            optimizer.step()

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

    def test_entries_move_to_devices_and_to_no_other_type(self):
        """By int8, row 200 became row -56, unchecked."""
        with pytest.raises(TypeError):
            Entries.of("rows", [200], (300, 4)).to(torch.int8)

    def test_flat_index_is_a_copy_where_the_index_is_wide_already(self):
        chosen = Entries.of("elements", [5, 7], (2**16, 2**15))
        chosen.flat_index().data.fill_(-(2**40))
        assert chosen.index.tolist() == [5, 7]

    def test_to_send_entries_to_another_process_leaves_the_index_in_its_place(self, backend):
        """torch would move its memory to where both can read it, and free what the optimizer's plan has the address of."""
        model, handle, optimizer = patched("elements")
        step(model, optimizer)
        held = handle.values["0.weight"].entries._held
        before = held.data_ptr()
        ForkingPickler.dumps(handle.values["0.weight"].entries)
        assert held.data_ptr() == before
        step(model, optimizer, 1)

    def test_entries_made_in_inference_mode_can_be_trained(self, backend):
        with torch.inference_mode():
            chosen = Selection({"weight": entries(SHAPE, "rows") & entries(SHAPE, "rows", 0.9)})
        model = nn.Linear(12, 8)
        handle = clm.patch(model, chosen)
        model(torch.randn(5, 12)).sum().backward()
        assert handle.values["weight"].grad.any()

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

    def test_values_that_lie_in_the_dense_weight(self, backend):
        """Rows were copied over rows that were still to be read."""
        dense, chosen = torch.arange(96.0).view(SHAPE), Entries.of("rows", [1, 2, 3], SHAPE).to(torch.get_default_device())
        inside = dense.view(-1)[6:42].view(3, 12)
        expected = dense.clone()
        expected[1:4] = inside.clone()
        ops.scatter_(dense, chosen, inside)
        assert torch.equal(dense, expected)
        moments, none = [torch.zeros(3, 12) for _ in range(3)], torch.empty(0)
        settings = torch.ones(1, 6, dtype=torch.float64, device="cpu")
        lists = [[t] for t in (inside, *moments, none, none, none, dense, chosen.index)]
        with pytest.raises(ValueError, match=r"adamw_step_: values\[0\] must be in memory of their own"):
            torch.ops.clm_kernels.adamw_step_(*lists, chosen.layout, settings, False, False)

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


@every_kind
@pytest.mark.parametrize(("first", "count"), [(-(2**40), 1), (2**40, 1), (1, 2), (0, 6), (0, -1)])
def test_tokens_are_copied_and_checked_where_they_are_read(kind, first, count):
    if reason := ops.why_not("cpu"):
        pytest.skip(reason)
    index = torch.arange(5)
    index[0] = first
    dy, x, tokens = torch.randn(5, 8), torch.randn(5, 12), ops.Tokens(index, torch.tensor(count))
    with ops.backend("cpu"):
        with pytest.raises(ValueError, match=r"input_grad: (tokens|count) must be"):
            ops.input_grad(dy, torch.randn(SHAPE), tokens)
        with pytest.raises(ValueError, match=r"weight_grad: (tokens|count) must be"):
            ops.weight_grad(dy, x, entries(SHAPE, kind), tokens=tokens)


def test_a_layout_is_a_known_kind_and_a_block_that_divides():
    assert Layout.checked("op", [2, 8, 12, 4, 3]) == Layout.of("blocks", (8, 12), (4, 3))
    assert Layout.checked("op", [4, 0, 0, 0, 0], dense=True).kind == 4


@pytest.mark.parametrize("interpret", ["0", "1"])
def test_a_search_for_misuses_finds_none(interpret):
    """As `tests/misuse.py` says; thousands more by hand, and under the sanitizers."""
    script, count = ROOT / "tests" / "misuse.py", "300" if interpret == "0" else "40"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": interpret}
    command = [sys.executable, str(script), "--count", count, "--seed", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and f"{count} cases, no crash" in done.stdout, (done.stdout[-300:], done.stderr[-2000:])
