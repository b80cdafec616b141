"""What selected entries add to a product, beside the dense product of the changed weight."""

import pytest
import torch
from dealt_groups import deal_out
from models import entries

from clm_kernels import Entries, ops
from clm_kernels.serving.parts import Part

SHAPES = ((48, 80), (64, 96), (16, 16), (6, 14))
CASES = {
    "rows": lambda shape: entries(shape, "rows"),
    "columns": lambda shape: entries(shape, "columns"),
    "one row": lambda shape: Entries.of("rows", [1], shape),
    "every row": lambda shape: Entries.everything("rows", shape),
    "none": lambda shape: Entries.of("rows", [], shape),
    "groups": lambda shape: deal_out(shape, 3),
    "groups of several shapes": lambda shape: deal_out(shape, 5),
    "scattered blocks": lambda shape: Entries.of("blocks", torch.tensor([0, 1, 2, 5, 7]), shape, (2, 2)),
    "one block": lambda shape: Entries.of("blocks", torch.tensor([3]), shape, (2, 2)),
}


@pytest.mark.parametrize("transposed", [False, True], ids=["stored (out, in)", "stored (in, out)"])
@pytest.mark.parametrize("case", CASES)
def test_it_adds_what_the_dense_change_adds(case, transposed, poison):
    for shape in SHAPES:
        chosen = CASES[case](shape)
        change = torch.randn(chosen.compact_shape, dtype=torch.float64)
        dense = torch.zeros(shape, dtype=torch.float64)
        ops.scatter_(dense, chosen, change)
        weight = dense.T if transposed else dense
        x = torch.randn(5, weight.shape[1], dtype=torch.float64)
        y = torch.randn(5, weight.shape[0], dtype=torch.float64)
        expected = y + x @ weight.T
        Part(chosen, change, transposed).add_(y, x)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        assert bool(case == "none") == bool((x @ weight.T == 0).all())


def test_it_counts_what_it_holds():
    chosen = entries((48, 80), "columns")
    assert Part(chosen, torch.zeros(chosen.compact_shape), False).nbytes == chosen.count * 4 + chosen.index.numel() * 8
