"""What happens between a patched layer's forward and its backward; run under the sanitizers too, see `test_memory_safety`."""

import pytest
import torch
from models import entries
from owned_entries import every_kind, patched
from torch import nn

import clm_kernels as clm
from clm_kernels import Entries, Selection, ops


class TestBetweenForwardAndBackward:
    @every_kind
    def test_no_hook_and_no_graph_shows_the_index(self, kind):
        """A write by ``.data`` there would go unseen, and the next step write anywhere."""
        model, _, _ = patched(kind)
        shown = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: shown.append(tensor) or tensor, lambda tensor: tensor):
            y = model[0](torch.randn(5, 12))
        node = y.grad_fn.next_functions[0][0]
        assert "LinearFunction" in type(node).__name__ and shown
        assert all(tensor.is_floating_point() for tensor in (*shown, *node.saved_tensors) if tensor is not None)

    @every_kind
    def test_an_input_whose_storage_has_shrunk_is_refused(self, backend, kind):
        model, _, _ = patched(kind)
        inputs = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: inputs.append(tensor) or tensor, lambda tensor: tensor):
            y = model[0](torch.randn(5, 12))
        inputs[0].untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=r"weight_grad: x must be within its storage, \d+ bytes, got a storage of 0"):
            y.sum().backward()

    @every_kind
    @pytest.mark.parametrize("other", ["tokens", "width", "dtype"])
    def test_a_hook_that_gives_back_another_input_is_refused(self, backend, kind, other):
        model, _, _ = patched(kind)
        change = {"tokens": lambda x: x[:1], "width": lambda x: x[:, :2], "dtype": lambda x: x.double()}[other]
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, change):
            y = model[0](torch.randn(5, 12))
        with pytest.raises(ValueError, match=r"weight_grad: x must be"):
            y.sum().backward()

    def test_what_is_negative_by_a_mark_is_read_so(self, backend):
        """The imaginary part of a conjugate: of one column it is taken where it lies."""
        torch.manual_seed(0)
        grads = []
        for make in (lambda: nn.Linear(12, 1), lambda: nn.Linear(1, 8)):
            model = make()
            values = clm.patch(
                model, Selection({"weight": Entries.everything("rows", tuple(model.weight.shape))}), head=False
            ).values
            x, dy = (torch.randn(5, size, dtype=torch.cfloat).conj().imag for size in (model.in_features, model.out_features))
            model(x).backward(dy)
            torch.testing.assert_close(values["weight"].grad, (dy.T.clone() @ x.clone()))
            scale = nn.Parameter(torch.zeros(1))
            optimizer = clm.SparseAdamW([scale])
            for _ in range(2):
                scale.grad = torch.full((1,), 1 + 2j).conj().imag
                optimizer.step()
            grads.append(optimizer.state[scale]["exp_avg"].item())
        assert grads == [pytest.approx(-2 * (1 - 0.9**2))] * 2

    @pytest.mark.parametrize("kind", ["rows", "groups"])
    def test_a_backward_under_autocast_rounds_no_sum(self, kind):
        torch.manual_seed(0)
        dealt = [4 * row + column for row in range(4) for column in range(4) if (row + column) % 2 == 0]
        chosen = Entries.of("blocks", dealt, (64, 64), (16, 16)) if kind == "groups" else entries((64, 64), kind)
        model = nn.Sequential(nn.Linear(64, 64))
        values = clm.patch(model, Selection({"0.weight": chosen})).values["0.weight"]
        x, grads = torch.randn(2048, 64), []
        for inside in (False, True):
            values.grad = None
            with ops.backend("matmul,reference"):
                y = model(x)
                with torch.autocast("cpu", enabled=inside):
                    y.backward(torch.ones_like(y))
            grads.append(values.grad)
        assert torch.equal(*grads)


def test_tokens_whose_storage_has_shrunk_are_refused(backend):
    """Whoever chooses the active tokens of a patched model may give spoilt ones."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    selection = clm.Selection({f"{i}.weight": clm.Entries.everything("rows", (8, 8)) for i in range(2)})

    def spoilt(dy, energy):
        index = torch.arange(len(dy))
        index.untyped_storage().resize_(8)
        return index, torch.tensor(len(dy))

    handle = clm.patch(model, selection, energy=0.9)
    handle.active.choose = spoilt
    with pytest.raises(ValueError, match="tokens must be within its storage, 40 bytes, got a storage of 8"):
        model(torch.randn(5, 8)).sum().backward()
